"""Training of the demo checkpoint: `python -m sam3lt_ray.demo.training --help`."""
