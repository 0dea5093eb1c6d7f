"""Regions of phrases on disk: a folder of Parquet parts, one row a phrase, and one file that says how they were made.

    masks.json            settings and data they are of, see `Manifest`
    parts/000000.parquet  all phrases of samples 0 to SPAN - 1, and so on; a part is there whole or not at all

A part of samples without any phrase is there too, without rows: parts that are there are done.
"""

from __future__ import annotations

import pyarrow as pa

SPAN = 256
"""Samples of a part. Samples of one image mostly stand side by side, so that it is encoded once."""
SCHEMA = pa.schema(
    [
        pa.field("sample", pa.int64()),  # index in its source
        pa.field("sample_id", pa.string()),
        pa.field("image", pa.string()),  # file name, empty where there is no file
        pa.field("image_sha256", pa.string()),
        pa.field("height", pa.int32()),  # of the upright image in pixels
        pa.field("width", pa.int32()),
        pa.field("message", pa.int32()),  # place in the conversation, from 0
        pa.field("start", pa.int32()),  # characters of the message's text
        pa.field("end", pa.int32()),
        pa.field("phrase", pa.string()),
        # Regions, the likeliest first; those that the gates leave out stand behind `kept` others.
        pa.field("boxes", pa.list_(pa.list_(pa.float32(), 4))),  # x0, y0, x1, y1 in pixels
        pa.field("masks", pa.list_(pa.binary())),  # COCO's compressed run lengths of (height, width)
        pa.field("scores", pa.list_(pa.float32())),
        pa.field("predicted_iou", pa.list_(pa.float32())),
        pa.field("stability", pa.list_(pa.float32())),
        pa.field("kept", pa.int32()),  # so many of them are the phrase's region; 0: it has none
        pa.field("dropped", pa.string()),  # why the others, or all, are left out; empty where none is
        pa.field("producer", pa.string()),  # version of what found them
    ]
)
