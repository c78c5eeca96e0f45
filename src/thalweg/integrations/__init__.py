"""Recording under training libraries: one module for each, which imports its library only when it is used.

```python
from thalweg.integrations.lightning import ThalwegCallback       # Lightning, both import paths
from thalweg.integrations.transformers import ThalwegCallback    # HuggingFace Trainer
from thalweg.integrations.peft import lora_delta_weights         # the products B·A of LoRA pairs
```

Accelerate needs no module: `thalweg.watch(model, optimizer, folder)` takes what `accelerator.prepare` returns.
"""
