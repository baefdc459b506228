"""Accuracy, macro-F1 and confusion matrix, as a metric of ``evaluate`` that needs no network."""

from typing import Any

import datasets
import evaluate
import numpy as np


class ImageClassificationMetric(evaluate.Metric):
    """``compute(predictions=..., references=..., num_classes=...)`` on class indices.

    >>> metric = ImageClassificationMetric(keep_in_memory=True)
    >>> metric.compute(predictions=[0, 1, 1], references=[0, 1, 0], num_classes=2)
    {'accuracy': 0.666..., 'macro_f1': 0.666..., 'num_images': 3, 'confusion_matrix': [[1, 1], [0, 1]]}

    Fractions are in 0..1. Rows of the confusion matrix are true classes, columns predicted ones. Macro-F1 is the plain
    mean of F1 = 2 TP / (2 TP + FP + FN) over the classes that occur in predictions or references, as scikit-learn's
    ``f1_score(average="macro")`` has it.
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Accuracy, macro-F1 and confusion matrix of a single-label image classifier.",
            citation="",
            inputs_description="Class indices, num_classes.",
            features=datasets.Features(predictions=datasets.Value("int64"), references=datasets.Value("int64")),
        )

    def _compute(self, predictions: list[int], references: list[int], num_classes: int) -> dict[str, Any]:
        matrix = np.zeros((num_classes, num_classes), dtype=np.int64)
        np.add.at(matrix, (np.asarray(references), np.asarray(predictions)), 1)
        hits = np.diag(matrix)
        occurrences = matrix.sum(axis=0) + matrix.sum(axis=1)  # 2 TP + FP + FN
        present = occurrences > 0
        return {
            "accuracy": float(hits.sum() / matrix.sum()),
            "macro_f1": float(np.mean(2 * hits[present] / occurrences[present])),
            "num_images": int(matrix.sum()),
            "confusion_matrix": matrix.tolist(),
        }
