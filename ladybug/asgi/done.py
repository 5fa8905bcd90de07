"""DONE: what send() returns when there is nothing to wait for, which is nearly always."""

from typing import Any, Final, final

from mypy_extensions import mypyc_attr

# An exhausted C iterator ends at once, for ever, and without an exception being made.
NOTHING: Final[Any] = iter(())
next(NOTHING, None)


@mypyc_attr(native_class=True)
@final
class Done:
    """A send() that has happened already: one shared object, awaiting it never suspends.

    It also passes for a coroutine (send, throw, close), because applications write asyncio.create_task(send(...)).
    """

    def __await__(self) -> Any:
        return NOTHING

    def send(self, value: Any) -> Any:
        raise StopIteration

    def throw(self, kind: Any, value: Any = None, traceback: Any = None) -> Any:
        raise kind if value is None else value

    def close(self) -> None:
        pass


DONE: Final = Done()
