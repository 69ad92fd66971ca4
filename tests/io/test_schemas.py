import pyarrow as pa
import pytest

from pipeline.io import schemas
from pipeline.io.tables import read_table, write_rows

ALL = {name: value for name, value in vars(schemas).items() if isinstance(value, pa.Schema)}

# From the public interface: what users script against may grow, but never lose or rename.
PROMISED = {
    "IMAGES": "image_id dataset shard key member offset size uid url caption width height sha256 "
    "status reason",
    "PAIRS": "id_a id_b similarity reason",
    "DUPLICATES": "image_id uid url group_id group_size keep reason representative_id "
    "similarity_to_representative merged_into",
    "CONTAMINATED": "image_id uid url eval_dataset eval_shard eval_key similarity reason",
    "REMOVAL_IDS": "id",
    "PROMPTS": "prompt_id group_id caption role n_duplicates n_caption_copies n_captions rank",
    "SCREEN": "prompt_id seed timestep x_t_source dim eps_uncond_sq eps_text_sq eps_dot "
    "eps_dot_prev cos_channel_mean",
    "GENERATIONS": "generation_id key prompt_id seed scheduler num_inference_steps guidance_scale "
    "negative_prompt model_fingerprint sha256 status reason",
    "MATCHES": "generation_id image_id rank encoder similarity l2 tiled_l2 masked_l2 l2_ratio_50nn "
    "split_product",
    "VERDICTS": "generation_id prompt_id image_id verdict confidence",
    "FINDINGS": "prompt_id caption group_id verdict confidence calibration n_generated n_hits rate "
    "ci_low ci_high seeds_hit clique_size image_ids n_unet_forwards",
    "EXTRACTED": "image_id group_id n_duplicates n_generations generation_id verdict",
}


@pytest.mark.parametrize("name", sorted(PROMISED))
def test_promised_columns_are_there(name):
    assert set(PROMISED[name].split()) <= set(ALL[name].names)


@pytest.mark.parametrize("name", sorted(ALL))
def test_ids_are_64_bits_and_names_are_unique(name):
    schema = ALL[name]
    assert len(set(schema.names)) == len(schema.names)
    for field in schema:
        if field.name.endswith("_id") and field.name != "picture_id":
            assert field.type == pa.int64(), field


@pytest.mark.parametrize("name", sorted(ALL))
def test_an_empty_table_keeps_its_schema_on_disk(name, tmp_path):
    write_rows(tmp_path / "t.parquet", [], ALL[name])
    assert read_table(tmp_path / "t.parquet", ALL[name]).schema.equals(ALL[name])


@pytest.mark.parametrize(
    ("name", "column"),
    [("IMAGES", "uid"), ("DUPLICATES", "merged_into"), ("FINDINGS", "confidence")],
)
def test_optional_columns_may_be_null_and_keys_may_not(name, column):
    assert ALL[name].field(column).nullable
    assert not ALL[name].field(0).nullable
