"""Every error that a user can cause and mend, one type per kind; each message ends with the next step."""


class ResNetHubError(Exception):
    """Base of all user errors: scripts print it without a traceback and exit 2, the page shows it as a message."""


class CheckpointError(ResNetHubError):
    """A checkpoint folder or Hub repository that cannot be found, read or trusted."""


class PushError(ResNetHubError):
    """A push that the Hub does not take, or would not; nothing of it is there."""


class DatasetError(ResNetHubError):
    """A dataset that cannot be found, or that is not a labelled image dataset."""


class ImageError(ResNetHubError):
    """An image that cannot be decoded, or that is too large to decode safely."""


class ConfigurationError(ResNetHubError):
    """An option or argument with a value that cannot work."""


class TrainingError(ResNetHubError):
    """A training run that cannot go on to a useful end."""
