"""
A walnut from thirty views
==========================

Tomography from few views: filtered back-projection fills the image with streaks, total
variation does not. The projector is differentiable on every framework, so that a
network can be trained through it, and an untrained one fitted to the one measurement.
"""

import matplotlib.pyplot as plt

from svdinv.unroll.operators import dot_test
from svdinv.unroll.tasks.tomography.ct import Ct, CtOptions, fbp, tv

task, options = Ct(), CtOptions(size=96, views=30, noise=0.01)
problem = task.measure(task.read("walnut-1", options), options)
print(f"error of the adjoint: {dot_test(problem.A, problem.truth):.0e}")

images = {"truth": problem.truth}
for name, method in (("filtered back-projection", fbp), ("total variation", tv)):
    images[name] = task.finished(method(problem).image)
    print(f"{name}: {task.decibels(problem, images[name]):.1f} dB")
assert task.decibels(problem, images["total variation"]) > 28

# %%
# Left the measurement, each row the line integrals of one view.

figure, axes = plt.subplots(1, 4, figsize=(11, 3), layout="constrained")
axes[0].imshow(problem.y[0], cmap="gray", aspect="auto")
axes[0].set_title("sinogram")
for axis, (name, image) in zip(axes[1:], images.items(), strict=True):
    axis.imshow(image[0], cmap="gray", vmin=0, vmax=1)
    axis.set_title(name)
for axis in axes:
    axis.axis("off")
plt.show()
