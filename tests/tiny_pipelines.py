"""Pipelines of every architecture, of the true classes, random and tiny, for tests.

Latents are 4 x 8 x 8 and pictures 16 x 16, but for the unconditional ones, which say their own.
"""

from functools import cache
from pathlib import Path

import torch
from tiny_model import (
    RESOLUTION,
    build_tiny_pipeline,
    tiny_text_encoder,
    tiny_tokenizer,
    tiny_unet,
    tiny_vae,
)

_WIDTH = 16
_T5_WIDTH = 40


def build(kind: str, folder: Path, *, seed: int = 0, **changes) -> Path:
    """Save a tiny random pipeline of this kind in `folder`; `changes` go to its builder."""
    if kind in ("sd1", "sd2"):
        prediction = {"sd1": "epsilon", "sd2": "v_prediction"}[kind]
        return build_tiny_pipeline(folder, prediction_type=prediction, seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipe = _BUILDERS[kind](**changes)
    pipe.save_pretrained(folder, safe_serialization=True)
    return folder


def _lcm():
    from diffusers import LatentConsistencyModelPipeline, LCMScheduler

    tokenizer = tiny_tokenizer()
    return LatentConsistencyModelPipeline(
        vae=tiny_vae(),
        text_encoder=tiny_text_encoder(tokenizer),
        tokenizer=tokenizer,
        unet=tiny_unet(time_cond_proj_dim=8),
        scheduler=LCMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _sdxl(force_zeros=True):
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    tokenizer = tiny_tokenizer()
    return StableDiffusionXLPipeline(
        vae=tiny_vae(),
        text_encoder=tiny_text_encoder(tokenizer),
        tokenizer=tokenizer,
        text_encoder_2=_projecting(tokenizer),
        tokenizer_2=tokenizer,
        unet=tiny_unet(
            cross_attention_dim=2 * _WIDTH,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=_WIDTH + 6 * 8,
        ),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            steps_offset=1,
            timestep_spacing="leading",
        ),
        force_zeros_for_empty_prompt=force_zeros,
    )


def _sd3(missing=(), dynamic=False):
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )

    tokenizer = tiny_tokenizer()
    parts = {
        "text_encoder": _projecting(tokenizer),
        "tokenizer": tokenizer,
        "text_encoder_2": _projecting(tokenizer),
        "tokenizer_2": tokenizer,
        "text_encoder_3": _t5(),
        "tokenizer_3": _t5_tokenizer(),
    }
    for number in missing:
        suffix = "" if number == 1 else f"_{number}"
        parts[f"text_encoder{suffix}"] = parts[f"tokenizer{suffix}"] = None
    transformer = SD3Transformer2DModel(
        sample_size=RESOLUTION // 2,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=_T5_WIDTH,
        caption_projection_dim=16,
        pooled_projection_dim=2 * _WIDTH,
        pos_embed_max_size=16,
    )
    return StableDiffusion3Pipeline(
        transformer=_loud(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=dynamic),
        vae=tiny_vae(shift_factor=0.06),
        **parts,
    )


def _flux(guided=True):
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    tokenizer = tiny_tokenizer()
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=_T5_WIDTH,
        pooled_projection_dim=_WIDTH,
        guidance_embeds=guided,
        axes_dims_rope=(4, 4, 8),
    )
    return FluxPipeline(
        transformer=_loud(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(
            shift=3.0 if guided else 1.0, use_dynamic_shifting=guided
        ),
        vae=tiny_vae(shift_factor=0.11),
        text_encoder=tiny_text_encoder(tokenizer),
        tokenizer=tokenizer,
        text_encoder_2=_t5(),
        tokenizer_2=_t5_tokenizer(),
    )


def _pixart():
    from diffusers import DPMSolverMultistepScheduler, PixArtAlphaPipeline, PixArtTransformer2DModel

    transformer = PixArtTransformer2DModel(
        sample_size=RESOLUTION // 2,
        patch_size=2,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        cross_attention_dim=16,
        caption_channels=_T5_WIDTH,
        use_additional_conditions=False,
    )
    return PixArtAlphaPipeline(
        transformer=_loud(transformer),
        scheduler=DPMSolverMultistepScheduler(),
        vae=tiny_vae(),
        text_encoder=_t5(),
        tokenizer=_t5_tokenizer(),
    )


def _pixel_unet(channels=3, **changes):
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=16,
        in_channels=channels,
        out_channels=changes.pop("out_channels", channels),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        **changes,
    )


def _ddpm(channels=3, **changes):
    from diffusers import DDPMPipeline, DDPMScheduler

    learned = changes.pop("learned", False)
    if learned:
        changes["out_channels"] = 2 * channels
    scheduler = DDPMScheduler(variance_type="learned_range" if learned else "fixed_small")
    return DDPMPipeline(unet=_pixel_unet(channels, **changes), scheduler=scheduler)


def _ddim():
    from diffusers import DDIMPipeline, DDIMScheduler

    return DDIMPipeline(unet=_pixel_unet(), scheduler=DDIMScheduler())


def _ldm():
    from diffusers import DDIMScheduler, LDMPipeline, VQModel

    vqvae = VQModel(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        layers_per_block=1,
        latent_channels=3,
        norm_num_groups=4,
        num_vq_embeddings=16,
        scaling_factor=0.5,
    )
    scheduler = DDIMScheduler(clip_sample=False)
    return LDMPipeline(vqvae=vqvae, unet=_pixel_unet(), scheduler=scheduler)


def _projecting(tokenizer):
    from transformers import CLIPTextModelWithProjection

    return CLIPTextModelWithProjection(tiny_text_encoder(tokenizer).config)


def _t5():
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=len(_t5_tokenizer()),
        d_model=_T5_WIDTH,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_heads=2,
        tie_word_embeddings=False,
    )
    return T5EncoderModel(config)


@cache
def _t5_tokenizer():
    from transformers import T5TokenizerFast

    letters = "▁abcdefghijklmnopqrstuvwxyz"
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((x, -1.0) for x in letters)]
    return T5TokenizerFast(vocab=pieces, extra_ids=0)


def _loud(network):
    """Random weights where a network begins with zeros, so that its output is not constant."""
    for name, tensor in network.named_parameters():
        if not tensor.any() or "norm" in name:
            torch.nn.init.normal_(tensor, std=0.2)
    return network


_BUILDERS = {
    "lcm": _lcm,
    "sdxl": _sdxl,
    "sd3": _sd3,
    "flux": _flux,
    "pixart": _pixart,
    "ddpm": _ddpm,
    "ddim": _ddim,
    "ldm": _ldm,
}
