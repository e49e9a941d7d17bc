"""capsieve: tells good captions from bad ones at the scale of web datasets.

The way of a row, and the module that owns each step:

    manifest   finds Parquet manifests, recognises columns (`columns`), cuts them into shards (`shards`)
    records    rows -> images: which rows name the same one
    fetch      URL -> bytes, under rules
    images     bytes -> uint8 pixels
    model      BLIP_ITM as published; usable alone: `from pipeline.model import blip_itm`
    scorer     one replica: pixels and captions in, both scores out
    stages     the above lifted to Arrow batches: what each Ray stage calls
    dataflow   the graph in one expression; the only module that imports Ray
    output     staged parts, commit of a shard, resume, provenance
    tallies    what is frequent in an output: placeholders, hosts that fail
    progress   what the driver knows of a run: plan, coverage, summary
    run        the driver's loop: resume -> dataflow -> receipts -> commits -> summary

beside them

    schema, errors, config, commandline   what flows, how it fails, every setting, how settings are read
    storage                               how stores are opened, read and written; `storage_failures`, `local_files`
    evaluate, labelled                    AUC and its intervals; of a labelled manifest
    scenes, training, scene_evaluation    rendered scenes, the demo model's training, its figures
    local_s3                              a real S3 server on loopback, for the demo, tests and benchmarks

This file imports nothing.
"""
