"""What the page explains to whoever is new to all this, in a sentence or two each."""

HEATMAP = (
    "**Heatmap** (Grad-CAM): bright places are those that speak most for the class. Early stages see fine detail, late "
    "ones whole shapes, but only roughly where."
)
SEEN = "**What the network sees**: the whole picture, squeezed to a small square. What is lost here, it cannot know."
CONFIDENCE = (
    "**Probability**: of all the answers given with 90 %, about nine in ten are right on pictures like those of the "
    "training. It was set right on validation pictures (temperature scaling)."
)
UNFAMILIAR = (
    "**Unlike the training pictures**: the network's raw scores are lower than on 99 of 100 validation pictures (their "
    "*energy* is high). It then knows too little to be asked, and guesses."
)
RESIDUAL_BLOCK = (
    "**Residual block**: three small convolutions whose result is *added* to their input. Each block only has to learn "
    "a correction, and that is why a network of 50 layers and more can be trained at all."
)
CONFUSION_MATRIX = (
    "**Confusion matrix**: a row for each true class, a column for each answer. The diagonal is right; every other "
    "cell counts one kind of mistake. Choose a cell to see its pictures."
)
F1 = (
    "**Precision**: of the pictures called so, how many are. **Recall**: of those that are, how many were called so. "
    "**F1**: their harmonic mean, low as soon as one of them is low; **macro-F1** is its mean over the classes."
)
TOP_K = "**Top-k**: the k most probable classes; an answer is right within the top 3 if the true class is among them."
