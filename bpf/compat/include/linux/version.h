/*
 * Stand-in: BCC reads LINUX_VERSION_CODE into each program's version
 * field, which no kernel since 5.0 looks at.
 */
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + ((c) > 255 ? 255 : (c)))
#ifndef LINUX_VERSION_CODE
#define LINUX_VERSION_CODE KERNEL_VERSION(5, 10, 0)
#endif
