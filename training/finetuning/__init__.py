"""The parts of `finetune_lora.py`."""
