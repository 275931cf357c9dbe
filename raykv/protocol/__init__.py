"""WHAT travels: the messages of clients, coordinators, storage nodes and the supervisor, and what each may carry.

``frames`` declares every message; how much each field may hold stands in ``records.limits`` and is checked by the
decoder before an element is made. A frame that is not exactly what it claims to be is refused (``CorruptData``) before
anything is done with it, and nothing in it is ever unpickled.
"""
