"""Every command with one argument that is hostile, and the good files that stand beside it."""

import hostile_files as bad
from hostile_files import CAMERA, H5, NAMES
from hostile_pickles import BYTES_AS_OBJECTS
from scripts import load

from d2_hloc.app import cli
from d2_hloc.app.command import run_command
from d2_hloc.hloc import __main__ as hloc

IDENTITY = "1 0 0 0 1 0 0 0 1"
POSE = "1 0 0 0 0 0 0"
DEEP = "a: " + "[" * 2000
ALIASES = "".join(f"a{k}: &a{k} [*a{k - 1}, *a{k - 1}]\n" for k in range(1, 40))
ALIASES = f"a0: &a0 [x, x]\n{ALIASES}"
POINTS_CUT = "# Number of points: 1\n"
POSED = f"0 0 {IDENTITY} {IDENTITY} 1 0 0 1 0 1 0 0 0 0 1 0 0 0 0 1"
SMALL = ("compress", "{features}", "{out}/s.h5", "--dimensions", "2")


def yaml(content):
    return bad.text("conf.yaml", content)


PAIRS = {
    **{f"{kind} name": bad.text("pairs.txt", f"a.png {name}\n") for kind, name in NAMES.items()},
    "three names": bad.text("pairs.txt", "a.png b.png c.png\n"),
    "bytes": bad.text("pairs.txt", b"a.png \xff\xfe.png\n"),
    "controls": bad.text("pairs.txt", "a.png \x1b[2Jb.png\n"),
    "long line": bad.text("pairs.txt", "a" * 100_000),
    "pipe": bad.pipe,
    "socket": bad.unix_socket,
}
INTRINSICS = {
    **{f"{k} name": bad.text("cameras.txt", f"{name} {CAMERA}\n") for k, name in NAMES.items()},
    "no focal length": bad.text("cameras.txt", "a.png PINHOLE 64 48 0 50 32 24\n"),
    "huge focal length": bad.text("cameras.txt", "a.png PINHOLE 64 48 1e308 50 32 24\n"),
    "infinite width": bad.text("cameras.txt", "a.png PINHOLE inf 48 50 50 32 24\n"),
    "far principal point": bad.text("cameras.txt", "a.png PINHOLE 64 48 50 50 1e300 24\n"),
}
TRUTH = {
    "no quaternion": bad.text("truth.txt", "a.png 0 0 0 0 0 0 0\n"),
    "nan": bad.text("truth.txt", "a.png 1 0 0 0 nan 0 0\n"),
    "twice": bad.text("truth.txt", f"a.png {POSE}\na.png {POSE}\n"),
    "one place": bad.text("truth.txt", "".join(f"{k}.png {POSE}\n" for k in range(4))),
}
MODELS = {
    **{f"{k} name": bad.replaced("images.txt", "a.png", name) for k, name in NAMES.items()},
    "cut images": bad.replaced("images.txt", "2 1 0 0 0 1 0 0 1 b.png\n6 5 1\n", ""),
    "huge focal length": bad.replaced("cameras.txt", "50 50", "1e308 50"),
    "nan pose": bad.replaced("images.txt", "1 1 0 0 0 0", "1 1 0 0 0 nan"),
    "a name twice": bad.replaced("images.txt", "b.png", "a.png"),
}
CUT_POINTS = {"cut points": bad.model(lambda files: files | {"points3D.txt": POINTS_CUT})}
WEIGHTS = {
    "code": bad.checkpoint_of_code,
    "another shape": bad.checkpoint_of_another_shape,
    "other tensors": bad.safetensors_of_another_shape,
    "nothing": bad.text("weights.pth", ""),
}
YAMLS = {
    "bomb": yaml(ALIASES),
    "deep": yaml(DEEP),
    "object": yaml("a: !!python/object/apply:os.mkdir [evil]\n"),
    "unknown key": yaml("unknown: 1\n"),
}
IMAGES = {
    "zero bytes": bad.images(b"", b""),
    "no images": bad.images(b"#!/bin/sh\necho evil\n"),
    "bomb": bad.images(bad.bomb()),
    "nothing": bad.images(),
}
BAD_NAMES = {
    "newline": bad.named_images(b"a\nb.png", b"c\nd.png"),
    "no UTF-8": bad.named_images(b"\xff\xfe.png", b"\xff.png"),
    "escape": bad.named_images(b"\x1b[2J.png"),
}
NO_IMAGES = {
    "pipes": bad.no_images(bad.pipe),
    "sockets": bad.no_images(bad.unix_socket),
    "devices": bad.no_images(bad.device),
}
NVM = "3D-models/aachen_cvpr2018_db.nvm"
QUERIES = "queries/night_time_queries_with_intrinsics.txt"
AACHEN = {
    f"{place} {kind}": bad.aachen(file, old, name)
    for kind, name in NAMES.items()
    for place, file, old in (
        ("model", NVM, "b.png"),
        ("queries", QUERIES, "q.png"),
        ("pairs", "image_pairs_to_match.txt", "q.png"),
        ("intrinsics", "3D-models/database_intrinsics.txt", "b.png"),
    )
}
AACHEN |= {
    "nan pose": bad.aachen(NVM, "1 0 0 0 1", "1 0 0 0 nan"),
    "cut model": bad.aachen(NVM, "2\na", "3\na"),
    "no focal length": bad.aachen(QUERIES, " 50 50", " 0 50"),
}
DATABASES = {f"{kind} name": bad.database(name, "b.png") for kind, name in NAMES.items()}
DATABASES["missing images"] = bad.database("a.png", "b.png")
SCENES = {f"{kind} name": bad.megadepth([name, "b.png"]) for kind, name in NAMES.items()}
SCENES["bytes as objects"] = bad.megadepth(["a.png", "b.png"], BYTES_AS_OBJECTS)
FEATURES = {kind: bad.hdf5("features.h5", write) for kind, write in H5.items()}
FEATURES["no HDF5"] = bad.text("features.h5", "features")

EXTRACT = ("extract", "{images}", "{out}/features.h5", "--feature", "sift")
RECONSTRUCT = ("reconstruct", "{images}", "{out}")
TRIANGULATE = ("triangulate", "{model}", "{images}", "{out}")
MATCH = ("match", "{pairs}", "{features}", "{out}/matches.h5")

# Command, the argument that is hostile (in place of {} or appended), the kinds of it.
COMMANDS = [
    (("d2-hloc", "extract", "{}", "{out}/features.h5", "--feature", "sift"),
     IMAGES | BAD_NAMES | NO_IMAGES),
    (("d2-hloc", "reconstruct", "{}", "{out}", "--feature", "sift"), BAD_NAMES),
    (("d2-hloc", "pair", "{}", "{image}", "{out}"), {
        "pipe": bad.pipe, "socket": bad.unix_socket, "device": bad.device}),
    (("d2-hloc", "triangulate", "{model}", "{}", "{out}"), NO_IMAGES),
    (("d2-hloc", "dense", "{model}", "{out}/dense", "--images", "{}"), NO_IMAGES),
    (("hloc", "extract_features", "--export_dir", "{out}", "--image_list", "{list}",
      "--image_dir", "{}"), NO_IMAGES),
    (("relative_pose", "--pairs", "{posed}", "--output", "{out}", "--images", "{}"), NO_IMAGES),
    (("aachen", "--output", "{out}", "--dataset", "{}"), AACHEN),
    (("local_feature_benchmark", "--output", "{out}", "--dataset", "{}"), DATABASES),
    (("train", "--output", "{out}", "--config", "{megadepth}", "--dataset", "{}"), {
        kind: SCENES[f"{kind} name"] for kind in NAMES}),
    (("train_matcher", "--dataset", "{images}", "--output", "{out}", "--config", "{matcher}",
      "--scenes", "{}"), SCENES),
    (("d2-hloc", *EXTRACT[:3], "--weights", "{}"), WEIGHTS),
    (("d2-hloc", "match", "{}", "{features}", "{out}/matches.h5"), PAIRS),
    (("d2-hloc", "match", "{pairs}", "{}", "{out}/matches.h5"), FEATURES),
    (("d2-hloc", "compress", "{}", "{out}/small.h5"), FEATURES),
    (("d2-hloc", *SMALL, "--projection", "{}"), {
        "other tensors": bad.safetensors_of_another_shape,
        "text": bad.text("p.safetensors", "x" * 99),
    }),
    (("d2-hloc", *RECONSTRUCT, "--intrinsics", "{}"), INTRINSICS),
    (("d2-hloc", *RECONSTRUCT, "--ground-truth", "{}"), TRUTH),
    (("d2-hloc", *RECONSTRUCT, "--config", "{}"), YAMLS),
    (("d2-hloc", "triangulate", "{}", "{images}", "{out}"), MODELS | CUT_POINTS),
    (("d2-hloc", *TRIANGULATE, "--ground-truth", "{}"), TRUTH),
    (("d2-hloc", "localize", "{}", "{images}", "{out}"), {
        "no run": bad.model(),
        "forged record": lambda folder: bad.text("run.json", "[" * 9000)(folder).parent,
    }),
    (("d2-hloc", "dense", "{}", "{out}", "--images", "{images}"), MODELS | CUT_POINTS),
    (("d2-hloc", "dense", "{model}", "{out}", "--images", "{images}", "--config", "{}"), YAMLS),
    (("d2-hloc", "make-training-scene", "{}", "{images}", "{out}", "--images", "{images}"),
     MODELS | CUT_POINTS),
    (("d2-hloc", "merge", "{}"), {"nothing": bad.text("features.h5", "")}),
    (("hloc", "match_features", "--pairs", "{}", "--features", "{features}",
      "--matches", "{out}/matches.h5"), PAIRS),
    (("hloc", "extract_features", "--image_dir", "{images}", "--export_dir", "{out}",
      "--image_list", "{}"), {k: v for k, v in PAIRS.items() if k in ("pipe", "socket")} | {
        f"{kind} name": bad.text("list.txt", f"{name}\n") for kind, name in NAMES.items()}),
    (("relative_pose", "--pairs", "{}", "--images", "{images}", "--output", "{out}"), {
        f"{kind} name": bad.text("posed.txt", f"a.png {name} {POSED}\n")
        for kind, name in NAMES.items()}),
    (("hpatches", "--dataset", "{images}", "--output", "{out}", "--compare", "{}"),
     {"bytes as objects": bad.hostile_npy, "no cache": bad.text("cache.npy", "x")}),
    (("inloc", "--output", "{out}", "--combine", "{}", "{}"), {
        kind: bad.image_list(name) for kind, name in NAMES.items()}),
    (("train", "--dataset", "{}", "--output", "{out}"), {"nothing": bad.images()}),
    *(((name, "--dataset", "{images}", "--output", "{out}", "--config", "{}"), YAMLS)
      for name in ("aachen", "hpatches", "inloc", "local_feature_benchmark", "train",
                   "train_matcher")),
]  # fmt: skip


def write_plain(folder):
    """Good files beside the hostile one: two images, a model, pairs and features."""
    (folder / "images").mkdir()
    for k, name in enumerate(("a.png", "b.png")):
        bad.photograph(k).save(folder / "images" / name)
    bad.model()(folder)
    bad.text("pairs.txt", "a.png b.png\n")(folder)
    bad.hdf5("features.h5", bad.numbers(1.0))(folder)
    bad.text("list.txt", "a.png\nb.png\n")(folder)
    bad.text("posed.txt", f"a.png b.png {POSED}\n")(folder)
    bad.text("megadepth.yaml", "{source: megadepth, training: {device: cpu}}\n")(folder)
    bad.text("matcher.yaml", "{held_back: 0.5, views: {count: 2}}\n")(folder)
    names = ("pairs.txt", "list.txt", "posed.txt", "megadepth.yaml", "matcher.yaml")
    paths = {name.partition(".")[0]: folder / name for name in (*names, "features.h5")}
    paths |= {"images": folder / "images", "model": folder / "model"}
    return paths | {"image": folder / "images" / "a.png", "folder": folder}


def run(command, arguments):
    if command == "d2-hloc":
        return cli.main(arguments)
    if command == "hloc":
        return hloc.main(arguments)
    return run_command(command, lambda: load(command).main(arguments))
