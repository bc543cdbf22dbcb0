"""pagefault-trace: when did each page gain its physical frame?"""

__version__ = "0.2.0"
