//! Who: the picker orders the scored candidates.
