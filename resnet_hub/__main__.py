"""``python -m resnet_hub``, the same as ``resnet-hub``."""

from resnet_hub.cli import main

main()
