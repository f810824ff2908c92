// The release, as in sencache_core/__init__.py.
export const VERSION = "0.1.0";
