"""ResNets from scratch for small image datasets: train, publish on the Hugging Face Hub, put in front of people."""

from resnet_hub.errors import CheckpointError, ConfigurationError, DatasetError, ImageError, PushError, ResNetHubError
from resnet_hub.hub import ResNetForImageClassification, ResNetForSigns
from resnet_hub.modeling import ConvolutionalBlock, IdentityBlock, ResNet
from resnet_hub.predictor import Prediction, Predictor

__version__ = "0.1.0"

__all__ = [
    "CheckpointError",
    "ConfigurationError",
    "ConvolutionalBlock",
    "DatasetError",
    "IdentityBlock",
    "ImageError",
    "Prediction",
    "Predictor",
    "PushError",
    "ResNet",
    "ResNetForImageClassification",
    "ResNetForSigns",
    "ResNetHubError",
]
