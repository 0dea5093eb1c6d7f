"""The manifests of the faulty wrappers; light, for every process that lists lmms-eval's models loads them."""

from __future__ import annotations


def manifests():
    from lmms_eval.models.registry_v2 import ModelManifest

    here = "tests.vlm.peer.faulty"
    return [
        ModelManifest("faulty", simple_class_path=f"{here}.Faulty", chat_class_path=f"{here}.FaultyChat"),
        ModelManifest("unloadable", simple_class_path=f"{here}.Unloadable"),
    ]
