"""What the local host raises."""


class LoadError(Exception):
    """The app, its host.json, its settings or its bindings cannot be served. The message is meant for the developer."""


class FunctionFailedError(Exception):
    """An invocation ended with an exception, its result could not be converted, or its process ended.

    Attributes:
        stack_trace: the function's own traceback, as the Python worker reports it.
    """

    def __init__(self, message: str, stack_trace: str) -> None:
        super().__init__(message)
        self.stack_trace = stack_trace
