"""How the demo models were trained: `python -m data.recipes.demo_lm`, `demo_vlm`, `demo_vit`."""
