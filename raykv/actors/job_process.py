"""The helper process of a storage node: flushes and compactions beside the node's interpreter. No Ray in it."""

from __future__ import annotations

from raykv.storage.remote import Worker
from raykv.system.files import OsFileSystem
from raykv.system.helper import serve

if __name__ == "__main__":
    serve(Worker(OsFileSystem()).handle)
