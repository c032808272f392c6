"""
A beating heart from an eighth of its k-space
=============================================

A slice of a real heart that comes with the package is measured along golden-angle
lines, an eighth of k-space in each frame, and reconstructed by the network whose
weights come with the package. It was trained on other slices of this heart, on phantoms
and on photographs that move.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch

from svdinv.unroll import pretrained
from svdinv.unroll.metrics import snr
from svdinv.unroll.tasks.cine.task import Cine, CineOptions

task, options = Cine(), CineOptions(mask="radial")
problem = task.measure(task.read("long-axis", options), options)
print(f"{problem.name}: {task.describe(problem)}, {problem.setting}")

network = pretrained.load("cine")
given = problem.single().replace_arrays(torch.from_numpy)
with torch.no_grad():
    found = network(given)[0].numpy()
start = problem.adjoint()
for name, image in (("zero-filled", start), ("network", found)):
    print(f"{name}: {snr(problem.truth, image):.1f} dB")
assert snr(problem.truth, found) > snr(problem.truth, start) + 5

# %%
# Below the first frame one row of pixels over time: the beat.

figure, axes = plt.subplots(
    2, 3, figsize=(9, 4.6), layout="constrained", height_ratios=(3, 1)
)
every = {"truth": problem.truth, "zero-filled": start, "network": found}
for column, (name, image) in zip(axes.T, every.items(), strict=True):
    magnitude = np.abs(image)
    row = magnitude[:, magnitude.shape[1] // 2]
    for axis, picture in zip(column, (magnitude[0], row), strict=True):
        axis.imshow(picture, cmap="gray", vmin=0, vmax=1, aspect="auto")
        axis.axis("off")
    column[0].set_title(name)
plt.show()
