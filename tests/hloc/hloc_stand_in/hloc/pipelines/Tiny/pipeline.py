"""A pipeline that names the confs it takes in its code, and leaves as_half on."""

import argparse
from pathlib import Path

from ... import extract_features, match_features


def run(args):
    feature_conf = extract_features.confs["superpoint_aachen"]
    matcher_conf = match_features.confs["superglue"]
    extract_features.main(feature_conf, args.images, args.outputs)
    match_features.main(matcher_conf, args.pairs, feature_conf["output"], args.outputs)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=Path)
    parser.add_argument("--pairs", type=Path)
    parser.add_argument("--outputs", type=Path)
    run(parser.parse_args())
