//! Who is alive and who is where: membership and directory logic.
