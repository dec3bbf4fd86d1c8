"""Loop nests become LLVM's intermediate language."""
