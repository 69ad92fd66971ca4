"""unmemorize: find what a diffusion model memorized, remove the causes, and prove it."""

__version__ = "0.3.3"
