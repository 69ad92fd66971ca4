"""The columns of every Parquet file, in one place.

A field's metadata is not used: names and types are the contract. Nullable means that the value
may be missing in a row; a column that a stage does not compute is null, never absent.
"""

import pyarrow as pa


def _schema(*fields: tuple[str, pa.DataType] | tuple[str, pa.DataType, bool]) -> pa.Schema:
    return pa.schema([pa.field(f[0], f[1], nullable=len(f) == 3 and f[2]) for f in fields])


_I64, _I32, _F64, _STR, _BOOL = pa.int64(), pa.int32(), pa.float64(), pa.string(), pa.bool_()
_OPTIONAL = True

PLANTED = _schema(
    ("key", _STR),
    ("uid", _STR),
    ("picture_id", _STR),
    ("caption", _STR),
    ("k", _I32),
    ("k_caption", _I32),
    ("planted", _BOOL),
)

IMAGES = _schema(
    ("image_id", _I64),
    ("dataset", _STR),
    ("shard", _STR),
    ("key", _STR),
    ("member", _STR, _OPTIONAL),
    ("offset", _I64, _OPTIONAL),
    ("size", _I64, _OPTIONAL),
    ("uid", _STR, _OPTIONAL),
    ("url", _STR, _OPTIONAL),
    ("caption", _STR),
    ("width", _I32, _OPTIONAL),
    ("height", _I32, _OPTIONAL),
    ("sha256", _STR, _OPTIONAL),
    ("pixel_sha256", _STR, _OPTIONAL),
    ("vector_sha256", _STR, _OPTIONAL),
    ("status", _STR),
    ("reason", _STR),
    ("detail", _STR),
)

REKEYED = _schema(("shard", _STR), ("key", _STR), ("image_id", _I64), ("new_image_id", _I64))

EMBEDDING_METADATA = _schema(
    ("image_id", _I64),
    ("image_path", _STR),
    ("caption", _STR),
    ("key", _STR),
    ("quality", pa.float32(), _OPTIONAL),
)

HASH_METADATA = EMBEDDING_METADATA.append(pa.field("trimmed", pa.binary(32))).append(
    pa.field("trimmed_quality", pa.float32())
)
"""Beside hashes: those of what a border encloses, null where there is none."""

CLIP_SIMILARITY = _schema(("image_id", _I64), ("clip_similarity", _F64, _OPTIONAL))

CAPTION_GROUPS = _schema(
    ("group_id", _I64),
    ("group_size", _I32),
    ("n_captions", _I32),
    ("caption_diversity", _F64, _OPTIONAL),
)

ALTERNATIVES = _schema(
    ("image_id", _I64), ("caption", _STR), ("source_image_id", _I64), ("n", _I32)
)

REJECTED = _schema(("image_id", _I64), ("key", _STR), ("reason", _STR), ("detail", _STR))

PAIRS = _schema(("id_a", _I64), ("id_b", _I64), ("similarity", _F64), ("reason", _STR))

QUALITY = _schema(("image_id", _I64), ("value", _F64, _OPTIONAL))

HUBS = _schema(("leader_id", _I64), ("image_id", _I64), ("similarity", _F64))

# group_id never changes once a run has given it. Where a later run (`onto`) joins groups, the
# smallest id of those that were there stays, and rows of the others say so in merged_into: the
# present group is coalesce(merged_into, group_id), and group_size is its size. subgroup_id is the
# smallest image id of a piece that has a star; a group that does not chain is one piece.
DUPLICATES = _schema(
    ("image_id", _I64),
    ("uid", _STR, _OPTIONAL),
    ("url", _STR, _OPTIONAL),
    ("group_id", _I64),
    ("group_size", _I32),
    ("keep", _BOOL),
    ("reason", _STR),
    ("representative_id", _I64),
    ("similarity_to_representative", _F64),
    ("merged_into", _I64, _OPTIONAL),
    ("subgroup_id", _I64, _OPTIONAL),
)

SURVIVORS = _schema(
    ("image_id", _I64),
    ("keep", _BOOL),
    ("reason", _STR),
    ("representative_id", _I64),
    ("similarity_to_representative", _F64),
    ("subgroup_id", _I64),
)

EXPORT_ROWS = _schema(
    ("image_id", _I64),
    ("uid", _STR, _OPTIONAL),
    ("url", _STR, _OPTIONAL),
    ("shard", _STR),
    ("key", _STR),
    ("group_id", _I64),
    ("reason", _STR),
)

GROUPS = _schema(
    ("group_id", _I64),
    ("group_size", _I32),
    ("n_kept", _I32),
    ("n_captions", _I32),
    ("weakest_link", _F64),
    ("diameter", _I32),
    ("placeholder", _BOOL),
    ("n_subgroups", _I32, _OPTIONAL),
)

_NEAREST_EVAL = (
    ("eval_dataset", _STR),
    ("eval_shard", _STR),
    ("eval_key", _STR),
    ("similarity", _F64),
    ("reason", _STR),
)

CONTAMINATION = _schema(("image_id", _I64), *_NEAREST_EVAL)

CONTAMINATED = _schema(
    ("image_id", _I64), ("uid", _STR, _OPTIONAL), ("url", _STR, _OPTIONAL), *_NEAREST_EVAL
)

REMOVAL_IDS = _schema(("id", _STR))

PROMPTS = _schema(
    ("prompt_id", _I64),
    ("group_id", _I64, _OPTIONAL),
    ("caption", _STR),
    ("role", _STR),
    ("n_duplicates", _I32),
    ("n_caption_copies", _I32),
    ("n_captions", _I32),
    ("rank", _I32),
)

PROMPTS_REJECTED = _schema(("row", _I64), ("reason", _STR), ("detail", _STR))

_ASKED = (
    ("row", _I64),
    ("asked", _STR),
    ("kind", _STR, _OPTIONAL),
    ("status", _STR),
    ("reason", _STR),
    ("detail", _STR),
    ("found", _BOOL),
    ("how", _STR, _OPTIONAL),
    ("image_id", _I64, _OPTIONAL),
    ("group_id", _I64, _OPTIONAL),
    ("asked_l2", _F64, _OPTIONAL),
    ("asked_tiled_l2", _F64, _OPTIONAL),
)

ASKED = _schema(*_ASKED)

SCREEN = _schema(
    ("prompt_id", _I64),
    ("seed", _I64),
    ("step", _I32),
    ("timestep", _I32),
    ("x_t_source", _STR),
    ("dim", _I32),
    ("eps_uncond_sq", _F64),
    ("eps_text_sq", _F64),
    ("eps_dot", _F64),
    ("eps_dot_prev", _F64, _OPTIONAL),
    ("cos_channel_mean", _F64),
    ("predicts", _STR),  # noise, or velocity for a flow model
)

COLLECTED = _schema(
    ("generation_id", _I64),
    ("shard", _STR),
    ("key", _STR),
    ("member", _STR, _OPTIONAL),
    ("offset", _I64, _OPTIONAL),
    ("size", _I64, _OPTIONAL),
    ("prompt_id", _I64, _OPTIONAL),
    ("caption", _STR),
    ("seed", _I64, _OPTIONAL),
    ("width", _I32, _OPTIONAL),
    ("height", _I32, _OPTIONAL),
    ("sha256", _STR, _OPTIONAL),
    ("status", _STR),
    ("reason", _STR),
    ("detail", _STR),
)

PROBES = _schema(
    ("prompt_id", _I64),
    ("probe", _STR),
    ("score", _F64, _OPTIONAL),
    ("n_forwards", _I64),
    ("reason", _STR),
)

# Of pictures that another generator made it is not known how.
GENERATIONS = _schema(
    ("generation_id", _I64),
    ("key", _STR),
    ("prompt_id", _I64, _OPTIONAL),
    ("seed", _I64, _OPTIONAL),
    ("scheduler", _STR, _OPTIONAL),
    ("num_inference_steps", _I32, _OPTIONAL),
    ("guidance_scale", _F64, _OPTIONAL),
    ("negative_prompt", _STR, _OPTIONAL),
    ("model_fingerprint", _STR, _OPTIONAL),
    ("sha256", _STR),
    ("status", _STR),
    ("reason", _STR),
)

CLUSTERS = _schema(
    ("generation_id", _I64),
    ("prompt_id", _I64, _OPTIONAL),
    ("encoder", _STR),
    ("cluster", _I32),
)

MATCHES = _schema(
    ("generation_id", _I64),
    ("image_id", _I64),
    ("group_id", _I64),
    ("rank", _I32),
    ("encoder", _STR),
    ("similarity", _F64, _OPTIONAL),
    ("l2", _F64),
    ("tiled_l2", _F64),
    ("masked_l2", _F64, _OPTIONAL),
    ("masked_ratio", _F64, _OPTIONAL),
    ("l2_ratio_50nn", _F64, _OPTIONAL),
    ("l2_ratio", _F64, _OPTIONAL),
    ("nearest_ratio", _F64, _OPTIONAL),
    ("split_product", _F64, _OPTIONAL),
    ("blank", _BOOL),
)

_DISTANCES = (
    ("similarity", _F64, _OPTIONAL),
    ("l2", _F64, _OPTIONAL),
    ("tiled_l2", _F64, _OPTIONAL),
    ("masked_l2", _F64, _OPTIONAL),
    ("l2_ratio_50nn", _F64, _OPTIONAL),
    ("nearest_ratio", _F64, _OPTIONAL),
)

VERDICTS = _schema(
    ("generation_id", _I64),
    ("prompt_id", _I64, _OPTIONAL),
    ("seed", _I64, _OPTIONAL),
    ("image_id", _I64, _OPTIONAL),
    ("group_id", _I64, _OPTIONAL),
    ("verdict", _STR),
    ("confidence", _F64, _OPTIONAL),
    *_DISTANCES,
)

ROUNDS = _schema(
    ("prompt_id", _I64),
    ("n_generated", _I32),
    ("n_hits", _I32),
    ("verdict", _STR),
    ("memorized", _F64),
    ("open", _BOOL),
)

FINDINGS = _schema(
    ("prompt_id", _I64),
    ("caption", _STR),
    ("group_id", _I64, _OPTIONAL),
    ("role", _STR),
    ("n_duplicates", _I32),
    ("n_caption_copies", _I32),
    ("verdict", _STR),
    ("confidence", _F64, _OPTIONAL),
    ("calibration", _STR),
    ("n_generated", _I32),
    ("n_hits", _I32),
    ("rate", _F64, _OPTIONAL),
    ("ci_low", _F64, _OPTIONAL),
    ("ci_high", _F64, _OPTIONAL),
    ("seeds_hit", pa.list_(_I64)),
    ("clique_size", _I32),
    ("clique_capped", _BOOL),
    ("density_cluster_size", _I32, _OPTIONAL),
    ("image_ids", pa.list_(_I64)),
    ("n_unet_forwards", _I64),
    ("noise_gap", _F64, _OPTIONAL),
    ("noise_gap_all", _F64, _OPTIONAL),
    ("webster", _F64, _OPTIONAL),
    ("anisotropy", _F64, _OPTIONAL),
    ("anisotropy_cosine", _F64, _OPTIONAL),
    ("dsm_change", _F64, _OPTIONAL),
    ("dsm_change_2", _F64, _OPTIONAL),
    ("edges", _F64, _OPTIONAL),
    ("sharpness", _F64, _OPTIONAL),
    ("attention_entropy_first", _F64, _OPTIONAL),
    ("attention_entropy", _F64, _OPTIONAL),
    ("bright_ending", _F64, _OPTIONAL),
    ("seed_agreement", _F64, _OPTIONAL),
)

DISTANCES = tuple(field[0] for field in _DISTANCES)
"""Names of the distance columns that verdicts carry."""

EXTRACTED = _schema(
    ("image_id", _I64),
    ("group_id", _I64),
    ("n_duplicates", _I32),
    ("n_generations", _I32),
    ("generation_id", _I64),
    ("verdict", _STR),
    *_DISTANCES,
)

# n_hits are of the n_generated drawings of the group's own captions; the distances and the seed are
# those of the best generation, whichever caption it had.
IMAGES_ASKED = _schema(
    *_ASKED,
    ("n_duplicates", _I32, _OPTIONAL),
    ("n_captions", _I32, _OPTIONAL),
    ("captions", pa.list_(_STR), _OPTIONAL),
    ("verdict", _STR, _OPTIONAL),
    ("n_generated", _I32, _OPTIONAL),
    ("n_hits", _I32, _OPTIONAL),
    ("n_hits_elsewhere", _I32, _OPTIONAL),
    ("rate", _F64, _OPTIONAL),
    ("ci_low", _F64, _OPTIONAL),
    ("ci_high", _F64, _OPTIONAL),
    ("generation_id", _I64, _OPTIONAL),
    ("seed", _I64, _OPTIONAL),
    *_DISTANCES,
)

REDRAWS = _schema(
    ("redraw_id", _I64),
    ("key", _STR),
    ("method", _STR),
    ("prompt_id", _I64),
    ("caption", _STR),
    ("arm", _STR),
    ("target_group", _I64, _OPTIONAL),
    ("number", _I32),
    ("seed", _I64),
    ("image_id", _I64, _OPTIONAL),
    ("group_id", _I64, _OPTIONAL),
    ("verdict", _STR),
    ("leaning_group", _I64, _OPTIONAL),
    *_DISTANCES,
)

ATTACKS = _schema(
    ("method", _STR),
    ("attack", _STR),
    ("arm", _STR),
    ("target_group", _I64, _OPTIONAL),
    ("subject", _I64),
    ("caption", _STR),
    ("n", _I32),
    ("hits", _I32),
    ("nearest_tiled_l2", _F64),
    ("n_unet_forwards", _I64),
    ("model_sha256", _STR),
)

# loss is the mean squared error of the predicted noise; `picture_id` an image id, or of a picture
# that was never trained a hash.
COLLATERAL = _schema(
    ("method", _STR),
    ("subset", _STR),
    ("picture_id", _I64),
    ("caption", _STR),
    ("timestep", _I32),
    ("loss", _F64),
)

DESCRIBED = _schema(
    ("key", _STR),
    ("method", _STR),
    ("arm", _STR),
    ("caption", _STR),
    ("target_group", _I64, _OPTIONAL),
    ("number", _I32),
    ("vector", pa.list_(pa.float32())),
)

NEARNESS = _schema(("group_id", _I64), ("target_group", _I64), ("similarity", _F64))

VERIFICATION = _schema(
    ("method", _STR),
    ("attack", _STR),
    ("arm", _STR),
    ("target_group", _I64, _OPTIONAL),
    ("prompt_id", _I64),
    ("caption", _STR),
    ("n", _I32),
    ("hits_before", _I32),
    ("hits_after", _I32),
    ("displaced_after", _I32),
    ("rate_before", _F64),
    ("rate_after", _F64),
    ("ci_low", _F64),
    ("ci_high", _F64),
    ("drift", _F64, _OPTIONAL),
    ("seed_drift", _F64, _OPTIONAL),
    ("model_sha256", _STR),
)

_KNOWN = (
    ("prompt_id", _I64),
    ("caption", _STR),
    ("picture_id", _STR),
    ("planted", _BOOL),
    ("k", _I32),
    ("k_caption", _I32),
)

TRUTH = _schema(
    *_KNOWN,
    ("number", _I32),
    ("seed", _I64),
    ("reproduced", _BOOL),
    ("reproduced_picture", _STR, _OPTIONAL),
    ("own_ssim", _F64),
    ("other_ssim", _F64),
)

SCORED = _schema(
    *_KNOWN,
    ("n_truth", _I32),
    ("p_truth", _F64),
    ("p_other", _F64),
    ("truth", _STR),
    ("verdict", _STR),
    ("rate", _F64),
    ("noise_gap", _F64, _OPTIONAL),
)
