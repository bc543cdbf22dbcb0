/* Empty on purpose: only socket filters need it. */
