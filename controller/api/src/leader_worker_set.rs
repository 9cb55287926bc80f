//! `leaderworkerset.x-k8s.io/v1` `LeaderWorkerSet`: what is read and written of a kind that SIG Apps owns.
