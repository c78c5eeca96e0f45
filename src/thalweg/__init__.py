"""Finds the parameter directions of a neural network that matter, says how sure that is, and lets people act on it.

```python
import thalweg as tw

recorder = tw.watch(model, optimizer, "runs/a")     # one line in a training script
...
problem = tw.Problem(model, loss, data)
pairs = tw.eigenpairs(problem.hessian(), k=10)
tw.analyse("runs/a", problem)
tw.report("runs/a")
```
"""

import lazy_loader as _lazy_loader

__getattr__, __dir__, __all__ = _lazy_loader.attach_stub(__name__, __file__)
