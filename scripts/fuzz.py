"""Fuzzes raykv's decoders: tables, segments of the log, manifests, identities, backups, frames, messages, values.

Each input must be decoded or refused with a named error: within a second, within the memory that is left to it, and
without a wrong value. With atheris installed (pip install atheris) inputs are guided by coverage of raykv's own code;
without it sound inputs are mutated at random. Exit code 1 if a decoder failed: the input is printed and kept, and
``--input FILE`` gives it to the decoder again.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MEMORY_BYTES = 4 << 30
INPUT_BYTES = 4096
INPUT_LIMIT_S = 10


def main() -> int:
    """Fuzz what was asked for."""
    from simulation.decoder_fuzzer import DECODERS

    parser = argparse.ArgumentParser(
        prog="scripts/fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("decoders", nargs="*", metavar="DECODER", help=f"{', '.join(DECODERS)} (default: all)")
    parser.add_argument("--inputs", type=int, default=100_000, help="inputs in all, in equal parts (default 100,000)")
    parser.add_argument("--seed", type=int, default=1, help="of the randomness (default 1)")
    parser.add_argument(
        "--plain", action="store_true", help="mutate at random although atheris is installed: repeatable, and faster"
    )
    parser.add_argument("--corpus", metavar="DIR", help="keep the inputs that reached something new there (atheris)")
    parser.add_argument("--input", metavar="FILE", help="give the one decoder this input only")
    parser.add_argument("--guided", action="store_true", help=argparse.SUPPRESS)  # the process that atheris takes over
    arguments = parser.parse_args()
    names = arguments.decoders or list(DECODERS)
    if unknown := [name for name in names if name not in DECODERS]:
        parser.error(f"no decoder {unknown[0]!r}; there are {', '.join(DECODERS)}")
    if arguments.inputs < 1:
        parser.error("--inputs is 1 or more")
    logging.getLogger("raykv.storage").setLevel(logging.CRITICAL)  # it reports each damage
    if arguments.input:
        if len(names) != 1:
            parser.error("--input needs the one decoder that takes it")
        DECODERS[names[0]](Path(arguments.input).read_bytes())
        print("decoded, or refused by name")
        return 0
    each = -(-arguments.inputs // len(names))
    if arguments.guided:
        return guided(names[0], each, arguments.seed, arguments.corpus)
    guide = importlib.util.find_spec("atheris") is not None and not arguments.plain
    how = (
        "guided by coverage"
        if guide
        else "mutated at random" + ("" if arguments.plain else ": atheris is not installed")
    )
    print(f"{each:,} inputs for each of {', '.join(names)}; {how}", flush=True)
    failed = 0
    for name in names:
        began = time.monotonic()
        if guide:
            failed += begin_guided(name, each, arguments.seed, arguments.corpus)
        else:
            failed += mutated(name, each, arguments.seed)
        print(f"{name}: {each / (time.monotonic() - began):,.0f} a second", flush=True)
    print("all held" if not failed else f"{failed} of {len(names)} decoders failed")
    return 1 if failed else 0


def mutated(name: str, inputs: int, seed: int) -> int:
    """Mutate at random; return 1 if the decoder failed."""
    from simulation.decoder_fuzzer import fuzz_decoder

    bound_memory()
    shown = time.monotonic()
    done = 0

    def report(count: int) -> None:
        nonlocal shown, done
        done += count
        if time.monotonic() - shown > 10:
            shown = time.monotonic()
            print(f"{name}: {done:,} of {inputs:,}", flush=True)

    found = fuzz_decoder(name, seed, inputs, report)
    if found is None:
        return 0
    path = Path(tempfile.gettempdir()) / f"raykv-fuzz-{name}"
    path.write_bytes(found)
    print(f"{name} failed at {found[:200]!r}\nagain: scripts/fuzz {name} --input {path}")
    return 1


def bound_memory() -> None:
    """Have an absurd claim of memory fail in this process, whatever the machine has."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard == resource.RLIM_INFINITY or hard > MEMORY_BYTES:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, hard))


def begin_guided(name: str, inputs: int, seed: int, corpus: str | None) -> int:
    """Run a process for atheris, which ends the one that it runs in; return 1 if the decoder failed."""
    command = [sys.executable, __file__, name, "--guided", "--inputs", str(inputs), "--seed", str(seed)]
    if corpus:
        command += ["--corpus", corpus]
    with tempfile.TemporaryDirectory(prefix="raykv-fuzz-") as folder:
        log = Path(folder) / "log"
        with log.open("wb") as file:
            code = subprocess.run(command, stdout=file, stderr=file, check=False).returncode
        if code:
            print(f"{name} failed (code {code}):\n" + "\n".join(log.read_text(errors="replace").splitlines()[-40:]))
        return 1 if code else 0


def guided(name: str, inputs: int, seed: int, corpus: str | None) -> int:
    """Have atheris choose the inputs, by which lines of raykv they reach."""
    import atheris

    for module in [module for module in sys.modules if module.startswith(("raykv", "simulation.decoder_fuzzer"))]:
        del sys.modules[module]  # imported anew, with the instructions that report coverage
    with atheris.instrument_imports(include=["raykv"]):
        from simulation.decoder_fuzzer import DECODERS, seeds

    logging.getLogger("raykv.storage").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="raykv-fuzz-") as own:
        kept = Path(corpus, name) if corpus else Path(own, "kept")
        sound = Path(own, "sound")
        kept.mkdir(parents=True, exist_ok=True)
        sound.mkdir()
        for number, data in enumerate(seeds()[name]):
            (sound / str(number)).write_bytes(data)
        found = Path(tempfile.gettempdir()) / f"raykv-fuzz-{name}-"
        atheris.Setup(
            [sys.argv[0], str(kept), str(sound), f"-runs={inputs}", f"-seed={seed}", f"-max_len={INPUT_BYTES}",
             f"-timeout={INPUT_LIMIT_S}", f"-rss_limit_mb={MEMORY_BYTES >> 20}", f"-artifact_prefix={found}"],
            DECODERS[name],
        )  # fmt: skip
        atheris.Fuzz()
    return os.EX_OK


if __name__ == "__main__":
    sys.exit(main())
