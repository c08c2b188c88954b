"""Operations that have two forms: a plain one, which says what is computed, and a Triton kernel for bf16 on CUDA."""
