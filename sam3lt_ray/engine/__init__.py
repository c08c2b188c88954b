"""The model: from checkpoint, vocabulary and prepared images to scored masks as run lengths. torch lives here."""
