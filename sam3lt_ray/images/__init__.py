"""Image files: decoding and resizing, with numpy and Pillow only."""
