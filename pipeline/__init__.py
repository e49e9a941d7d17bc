"""capsieve: tells good captions from bad ones at the scale of web datasets.

The way of a row, and the module that owns each step:

    manifest   finds Parquet manifests, recognises columns, cuts them into shards
    fetch      URL -> bytes, under rules
    images     bytes -> uint8 pixels
    model      BLIP_ITM as published; usable alone: `from pipeline.model import blip_itm`
    scorer     one replica: pixels and captions in, both scores out
    stages     the above lifted to Arrow batches: what each Ray stage calls
    dataflow   the graph in one expression; the only module that imports Ray
    output     staged parts, commit of a shard, resume, provenance
    run        the driver's loop: resume -> dataflow -> receipts -> commits -> summary

beside them

    schema, errors, config, storage   what flows, how it fails, every setting, how stores are opened
    scenes, training, evaluate        rendered scenes, the demo model's training, AUC and its intervals
    local_s3                          a real S3 server on loopback, for the demo, tests and benchmarks

This file imports nothing.
"""
