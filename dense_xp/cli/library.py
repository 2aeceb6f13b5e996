"""The commands about the library itself: ``demo``, ``parity``, ``bench`` and ``info``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from typing import Any

import dense_xp
from dense_xp.backend import Backend, available_backends, everyday_backends, get_backend, show_config
from dense_xp.cli.arguments import Parser, add_command, device_option, on_device, positive
from dense_xp.cli.reports import check_place
from dense_xp.evidence import bench, demo, parity
from dense_xp.kernels import host_kernels
from dense_xp.support.pictures import check_picture


def add(commands: Any, backend: Parser) -> None:
    """Add the commands to a parser; `backend` is the parent with ``--backend``."""
    about = "train a network on handwritten digits"
    show = add_command(commands, "demo", _demo, backend, help=about, example="demo --backend torch")
    show.add_argument("--epochs", type=positive, default=30, help="how often to go through the data (default: 30)")
    show.add_argument("--seed", type=int, default=0, help="seed of everything that is random (default: 0)")

    about = "hold every number against its rounding-error bound; status 1 if one is broken"
    compare = add_command(commands, "parity", _parity, backend, help=about, example="parity --backend cupy")
    compare.add_argument("--seed", type=int, default=0, help="seed of the numbers (default: 0)")
    compare.add_argument("--json", action="store_true", help="print a report for machines")

    race = add_command(
        commands,
        "bench",
        _bench,
        help="time the backends of this machine, side by side",
        description="Time a layer, a training step, an epoch and a prediction on each backend, and say from which "
        "width on one overtakes the first.",
        example="bench --backend numpy,cupy --plot bench.png",
    )
    race.add_argument(
        "--backend",
        dest="backends",
        metavar="NAMES",
        help="names with commas between them; ratios are to the first (default: all that work here, NumPy first)",
    )
    device_option(race)
    race.add_argument("--rounds", type=positive, default=7, help="how often each is timed (default: 7)")
    race.add_argument("--quick", action="store_true", help="small work only, some seconds")
    race.add_argument(
        "--sizes",
        choices=("chosen", "random"),
        default="chosen",
        help="sizes to time: ours, or drawn (default: chosen)",
    )
    race.add_argument("--seed", type=int, default=0, help="seed of the sizes that are drawn (default: 0)")
    race.add_argument("--count", type=positive, default=10, help="how many sizes are drawn (default: 10)")
    race.add_argument("--json", action="store_true", help="print a report for machines")
    race.add_argument("--plot", metavar="FILE", help="draw the time of a step against its width (needs matplotlib)")

    about = "show what is available, and why anything is not"
    add_command(commands, "info", _info, backend, help=about, example="info")


def _demo(arguments: argparse.Namespace) -> int:
    backend = get_backend()
    if backend.reason:
        print(f"auto: {backend.reason}")
    print(f"training on handwritten digits, {arguments.epochs} epochs …", flush=True)
    result = demo.run(backend, epochs=arguments.epochs, seed=arguments.seed)
    rows = {
        "backend": backend.name,
        "device": str(backend.device),
        "test accuracy": f"{result.accuracy:.4f} on {demo.N_TEST} images",
        "samples per second": f"{result.samples_per_second:,.0f}",
        "worst difference from NumPy": f"{result.difference_from_numpy:.2g} in a probability"
        + ("" if backend.name != "numpy" else " (this is the NumPy run)"),
        "same initial weights": "bit for bit" if result.same_start else "NO",
    }
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name:<{width}}  {value}")
    return 0


def _parity(arguments: argparse.Namespace) -> int:
    backend = get_backend()
    rows, skipped = parity.table(backend, seed=arguments.seed)
    passed = all(row.passed for row in rows)
    about = {
        "backend": backend.spec,
        "device": str(backend.device),
        "version": available_backends()[backend.name].version if backend.name in available_backends() else None,
        "numpy": available_backends()["numpy"].version,
        "tf32": backend.tf32,
    }
    if arguments.json:
        lines = [dataclasses.asdict(row) | {"passed": row.passed} for row in rows]
        print(json.dumps({**about, "passed": passed, "rows": lines, "skipped": skipped}, indent=1))
        return 0 if passed else 1
    print(
        f"{backend} ({backend.device}, {backend.name} {about['version']}), beside NumPy {about['numpy']}; "
        f"float32 products {'in TF32' if backend.tf32 else 'in full precision (TF32 off)'}"
    )
    print("worst error as a share of its rounding-error bound; at most 1 by theory\n")
    print(f"{'':22} {'dtype':9} {'share':>6} {'NumPy':>6}  {'where':24} {'numbers':>9}")
    for row in rows:
        numpy_share = "" if row.numpy_share is None else f"{row.numpy_share:.3f}"
        mark = "" if row.passed else "  BROKEN"
        print(f"{row.name:22} {row.dtype:9} {row.share:6.3f} {numpy_share:>6}  {row.where:24} {row.compared:9,}{mark}")
    for dtype, why in skipped.items():
        print(f"{dtype}: not compared: {why}")
    broken = sum(not row.passed for row in rows)
    print("\nevery bound holds" if passed else f"\n{broken} of {len(rows)} bounds are BROKEN")
    return 0 if passed else 1


def _bench(arguments: argparse.Namespace) -> int:
    backends = everyday_backends() if arguments.backends is None else _raced(arguments.backends, arguments.device)
    if arguments.device and arguments.backends is None:
        on_device(None, arguments.device)
    if arguments.plot:
        check_picture(arguments.plot)
        check_place(arguments.plot)
    timings: list[bench.Timing] = []
    group = ""
    if not arguments.json:
        print(f"kernels on NumPy: {host_kernels().NAME}; times are medians, ratios are to {backends[0].spec}")
    chosen = bench.drawn_works(arguments.seed, arguments.count) if arguments.sizes == "random" else None
    for rows in bench.run(backends, quick=arguments.quick, rounds=arguments.rounds, chosen=chosen):
        timings += rows
        if arguments.json:
            continue
        if rows[0].group != group:
            group = rows[0].group
            print(f"\n{group}")
        print(f"  {rows[0].work}")
        for row in rows:
            if row.seconds is None:
                print(f"    {row.backend:20} failed: {row.error}")
                continue
            ratio = "" if row.ratio is None else f"{row.ratio:8.2f}"
            slow = "" if row.p99 is None else f", 99th percentile {_time(row.p99).strip()}"
            rate = f"{row.samples_per_second:14,.0f} samples/s"
            print(f"    {row.backend:20} {_time(row.seconds)} {ratio}  {rate}{slow}")
        sys.stdout.flush()
    crossed = bench.crossovers(timings)
    if arguments.plot:
        bench.plot(timings, arguments.plot)
    if arguments.json:
        report = {
            "kernels": host_kernels().NAME,
            "versions": {
                b.name: available_backends()[b.name].version for b in backends if b.name in available_backends()
            },
            "timings": [dataclasses.asdict(row) for row in timings],
            "faster_from_width": crossed,
        }
        print(json.dumps(report, indent=1))
        return 0
    print()
    for spec, width in crossed.items():
        print(
            f"{spec} trains layers n-n-n, batch 128, faster than {backends[0].spec} "
            + ("at none of these widths" if width is None else f"from n = {width} on")
        )
    return 0


def _raced(names: str, device: str | None) -> list[Backend]:
    """Return the backends to compare, on the device if one is named; NumPy has only one."""
    return [get_backend(name if name == "numpy" else on_device(name, device)) for name in names.split(",")]


def _time(seconds: float) -> str:
    unit, factor = next((u, f) for u, f in (("s ", 1.0), ("ms", 1e3), ("µs", 1e6)) if seconds * f >= 1 or u == "µs")
    return f"{seconds * factor:10.4g} {unit}"


def _info(arguments: argparse.Namespace) -> int:
    print(f"dense_xp {dense_xp.__version__}, Python {sys.version.split()[0]}")
    kernels = host_kernels().NAME
    hint = '; compiled ones come with  pip install "dense-xp[fast]"' if kernels == "numpy" else ""
    print(f"kernels on NumPy: {kernels}{hint}")
    show_config()
    return 0
