"""Parts of transformers models: backbones, heads, encoder–decoders, frozen layers, adapters."""
