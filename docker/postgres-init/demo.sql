-- The demo's mirror lives apart from the real one, in a database of its own.
create database nxt_mirror_demo;
