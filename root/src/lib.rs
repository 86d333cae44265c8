//! A root: HTTP, planning, scatter, gather, ingest, and the control plane when it leads.
