"""Takes page faults in known Python functions, and writes where it did: a dictionary a line.

Usage: scenes.py FILE [few]       few: those for which it matters how the kernel is asked

Each has the name of the scene, the process, the memory that is touched, and the stack of Python's
own functions, innermost first, as Python itself has it: [qualified name, file, line]. It runs on
any CPython since 3.11, and needs its standard library alone.
"""

import ctypes
import functools
import mmap
import os
import sys
import threading

PAGES = 3
_kept = []  # mappings, which are to stay mapped


def frames_from(frame, line=None):
    found = []
    while frame is not None:
        code = frame.f_code
        found.append([code.co_qualname, code.co_filename, line or frame.f_lineno])
        frame, line = frame.f_back, None
    return found


def fresh(pages=PAGES):
    memory = mmap.mmap(-1, pages * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    _kept.append(memory)
    return memory, ctypes.addressof(ctypes.c_char.from_buffer(memory))


def say(scene, address, stack, pages=PAGES, **more):
    found = {"scene": scene, "pid": os.getpid(), "address": address, "stack": stack}
    text = f"{ {**found, 'bytes': pages * mmap.PAGESIZE, **more} }\n"
    with open(sys.argv[1], "a", encoding="utf-8") as said:
        said.write(text)


def touch(scene):
    memory, address = fresh()
    say(scene, address, frames_from(sys._getframe(), _TOUCHES))
    for at in range(0, PAGES * mmap.PAGESIZE, mmap.PAGESIZE):
        memory[at] = 1  # touches
    return 0


with open(__file__, encoding="utf-8") as own:
    _lines = own.read().splitlines()
_TOUCHES = next(n for n, line in enumerate(_lines, 1) if line.endswith("# touches"))


def nested():
    def inner():
        def innermost():
            touch("nested")

        innermost()

    inner()


class Method:
    def outer(self):
        self.inner(3)

    def inner(self, number):
        self.shared()
        return number

    @classmethod
    def shared(cls):
        cls.alone()

    @staticmethod
    def alone():
        touch("method")

    @property
    def read(self):
        return touch("property")

    def __enter__(self):
        touch("enter")
        return self

    def __exit__(self, *why):
        touch("exit")

    def __getattr__(self, name):
        return touch("getattr")

    def __del__(self):
        touch("del")

    def __init__(self):
        touch("init")


class Outer:
    class Inner:
        def method(self):
            touch("inner class")


def generator():
    yield 1
    touch("generator")
    yield from delegated()


def delegated():
    touch("yield from")
    yield 2


async def asynchronous():
    import asyncio

    await asyncio.sleep(0)
    touch("async")
    await asyncio.gather(awaited(), awaited())


async def awaited():
    import asyncio

    await asyncio.sleep(0)
    touch("awaited")


def compares(left, right):
    touch("callback")
    return left - right


def decorate(function):
    @functools.wraps(function)
    def wrapper(*arguments):
        return function(*arguments)

    return wrapper


@decorate
@decorate
def decorated():
    touch("decorated")


def recurses(depth):
    if depth:
        recurses(depth - 1)
    else:
        touch("recursion")


def sorts(depth):
    if depth:
        sorted([depth], key=lambda each: sorts(each - 1) or each)
    else:
        touch("through C")


def raises():
    try:
        raise ValueError("expected")
    except ValueError:
        touch("except")
    finally:
        touch("finally")


def überzeugt():
    touch("unicode")


def evaluated():
    # The code objects come to lie where the ones before did, as these are freed.
    for number in range(6):
        name = "first" if number % 2 else "other"
        lines = "\n" * (number % 5)
        text = f"{lines}def {name}():\n    touch('evaluated')\n{name}()\n"
        exec(compile(text, f"<{name}>", "exec"), {"touch": touch})


def released():
    """Memory that C code touches while it does not hold the interpreter's lock."""
    _, address = fresh(64)
    say("released", address, frames_from(sys._getframe(), _CALLS), 64)
    ctypes.CDLL(None).memset(ctypes.c_void_p(address), 1, 64 * mmap.PAGESIZE)  # calls


_CALLS = next(n for n, line in enumerate(_lines, 1) if line.endswith("# calls"))


def back_from_c():
    """C calls Python: by qsort."""
    kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
    numbers = (ctypes.c_int * 2)(2, 1)
    ctypes.CDLL(None).qsort(numbers, 2, 4, kind(lambda left, right: touch("from C")))


def compresses():
    import zlib

    zlib.compress(bytes(1 << 16))
    touch("compress")


def works(number):
    touch(f"thread {number}")
    touch(f"thread {number} again")


def in_threads():
    barrier = threading.Barrier(4)

    def begins(number):
        barrier.wait()
        works(number)

    threads = [threading.Thread(target=begins, args=(number,)) for number in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()


def forks():
    # Copy-on-write in the child, before Python itself has noticed, and after.
    child = os.fork()
    if not child:
        touch("child")
        thread = threading.Thread(target=works, args=("of the child",))
        thread.start()
        thread.join()
        os._exit(0)
    os.waitpid(child, 0)
    touch("parent")


def fork_in_thread():
    thread = threading.Thread(target=forks)
    thread.start()
    thread.join()


def interpreters():
    try:
        import _xxsubinterpreters as module
    except ImportError:
        try:
            import _interpreters as module
        except ImportError:
            return
    other = module.create()
    touch("two interpreters")
    code = "import mmap\nmemory = mmap.mmap(-1, 12288)\nmemory[0] = 1\n"
    module.run_string(other, code)
    touch("two interpreters again")
    module.destroy(other)
    touch("one interpreter")


def few():
    nested()
    Method().outer()
    list(generator())
    sorts(4)
    evaluated()
    released()
    in_threads()
    forks()


def main():
    nested()
    instance = Method()
    instance.outer()
    _ = instance.read
    with instance:
        pass
    _ = instance.missing
    del instance
    Outer.Inner().method()
    list(generator())
    sum(touch("genexpr") for _ in range(1))
    _ = [touch("listcomp") for _ in range(1)]
    import asyncio

    asyncio.run(asynchronous())
    sorted([3, 1], key=functools.cmp_to_key(compares))
    in_lambda = lambda: touch("lambda")  # noqa: E731
    in_lambda()
    decorated()
    recurses(70)
    sorts(12)
    raises()
    überzeugt()
    evaluated()
    released()
    back_from_c()
    compresses()
    in_threads()
    forks()
    fork_in_thread()
    interpreters()


class Body:
    touch("class body")


few() if sys.argv[2:] else main()
touch("module")
