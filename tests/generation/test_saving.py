"""A saved pipeline says nothing of where it was loaded from."""

from diffusers import StableDiffusionPipeline
from tiny_model import build_tiny_pipeline

from pipeline.generation.saving import save_pipeline
from pipeline.io.digest import sha256_file


def test_equal_models_of_two_folders_are_saved_as_equal_bytes(tmp_path):
    first = build_tiny_pipeline(tmp_path / "first")
    second = tmp_path / "second"
    first.rename(second)
    build_tiny_pipeline(first)
    for folder in (first, second):
        pipe = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
        save_pipeline(pipe, folder.with_suffix(".saved"))
    saved = [folder.with_suffix(".saved") for folder in (first, second)]
    assert sha256_file(saved[0]) == sha256_file(saved[1])
    for path in saved[0].rglob("*"):
        assert path.is_dir() or str(tmp_path).encode() not in path.read_bytes(), path
    again = StableDiffusionPipeline.from_pretrained(saved[0], local_files_only=True)
    assert again.unet.config.sample_size == pipe.unet.config.sample_size
