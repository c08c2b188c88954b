"""Triton kernels: imported only where :func:`sam3lt_ray.engine.ops.dispatch.uses_kernels` says so.

Each has its plain form, which says what it computes, in the module of the same name in ``engine/ops``. Sizes that a
model fixes (tokens, widths, heads) are compile-time constants; counts of images, prompts and masks never are, so that
nothing is compiled again while a run goes on. Compiled kernels are kept on disk by Triton (``TRITON_CACHE_DIR``,
``~/.triton/cache``), for all actors and runs of a machine.
"""
