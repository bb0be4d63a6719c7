"""Measures how well a model tells images of a class that it does not know, by leaving out each of its classes in turn."""

from typing import Any

import numpy as np
import numpy.typing as npt

KEPT = 0.95  # share of the known images at which false positives are counted
MAX_CLASSES = 100  # left out in turn, those with most images


def leave_classes_out(
    likeness: npt.NDArray[np.floating[Any]], labels: npt.NDArray[np.integer[Any]], names: list[str], threshold: float
) -> dict[str, Any] | None:
    """Leaves out each class in turn: its images should be less like the other classes than those classes' own images are.

    The network has seen the class that is left out, unless its features are frozen: of an image that is like nothing that it
    has seen, it may tell less.

    Args:
        likeness: how much each held-out image is like the training images of each class, (images, classes).
        labels: true class indices, (images,).
        names: class names, by class index.
        threshold: of the likeness, from which on an image is known.

    Returns:
        images; kept, the share of them that are known to the whole model; auroc, the area under the ROC curve of telling the
        known from those of a class that is left out; false_positives, the share of the latter that pass where 95 % of the
        known do, both in the mean of the classes; and classes, a row for each with label, auroc, false_positives and images.
        None if fewer than two classes have images.
    """
    from sklearn import metrics

    counts = np.bincount(labels, minlength=len(names))
    chosen = np.sort(np.argsort(-counts, kind="stable")[:MAX_CLASSES])
    rows = []
    for left_out in chosen[counts[chosen] > 0].tolist():
        unknown = labels == left_out
        if unknown.all():
            return None
        scores = np.delete(likeness, left_out, axis=1).max(1)
        passes = np.quantile(scores[~unknown], 1 - KEPT)
        rows.append(
            {
                "label": names[left_out],
                "auroc": float(metrics.roc_auc_score(~unknown, scores)),
                "false_positives": float((scores[unknown] >= passes).mean()),
                "images": int(unknown.sum()),
            }
        )
    if not rows:
        return None
    means = {name: float(np.mean([row[name] for row in rows])) for name in ("auroc", "false_positives")}
    kept = float((likeness.max(1) >= threshold).mean())
    return {"images": len(labels), "kept": kept, **means, "classes": rows}
