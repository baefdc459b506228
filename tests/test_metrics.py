import evaluate
import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

from resnet_hub.metrics import ImageClassificationMetric


@pytest.mark.parametrize("num_present", [5, 3])
def test_values_equal_scikit_learn(num_present):
    rng = np.random.default_rng(0)
    references, predictions = rng.integers(0, num_present, (2, 200))
    found = ImageClassificationMetric(keep_in_memory=True).compute(
        predictions=predictions, references=references, num_classes=5
    )
    assert found["accuracy"] == pytest.approx(accuracy_score(references, predictions))
    assert found["macro_f1"] == pytest.approx(f1_score(references, predictions, average="macro"))
    assert found["confusion_matrix"] == confusion_matrix(references, predictions, labels=range(5)).tolist()
    assert found["num_images"] == 200


def test_it_is_a_metric_of_evaluate_that_takes_batches():
    metric = ImageClassificationMetric(keep_in_memory=True)
    assert isinstance(metric, evaluate.Metric)
    metric.add_batch(predictions=[0, 1], references=[0, 0])
    metric.add_batch(predictions=[1], references=[1])
    assert metric.compute(num_classes=2)["confusion_matrix"] == [[1, 1], [0, 1]]
