//! How the database is set up.

use rocksdb::{BlockBasedOptions, Cache, DBCompressionType, Options};

/// Bytes of blocks that the database caches, of all its families together.
const BLOCK_CACHE: usize = 16 << 20;
/// Bytes of a block before it is compressed.
const BLOCK: usize = 16 << 10;
/// RocksDB's default, which other compressions than Zstd heed.
const WINDOW_BITS: i32 = -14;
/// The quickest level of Zstd.
const ZSTD_LEVEL: i32 = 1;
/// Bytes of a memtable of the state. It bounds how much of the log is played again after a crash.
const STATE_WRITE_BUFFER: usize = 4 << 20;
/// Files of the database's own log that are kept.
const KEPT_INFO_LOGS: usize = 2;

/// A cache of blocks, for the families of one database.
pub(crate) fn block_cache() -> Cache {
    Cache::new_lru_cache(BLOCK_CACHE)
}

fn common(cache: &Cache) -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_keep_log_file_num(KEPT_INFO_LOGS);
    // The same on every level, so that files of newer revisions, which overlap with none, move down as they are.
    options.set_compression_type(DBCompressionType::Zstd);
    options.set_compression_options(WINDOW_BITS, ZSTD_LEVEL, 0, 0);
    options.set_max_background_jobs(2);
    let mut table = BlockBasedOptions::default();
    table.set_block_size(BLOCK);
    table.set_block_cache(cache);
    table.set_bloom_filter(10.0, false);
    options.set_block_based_table_factory(&table);
    options
}

/// The state: no write-ahead log, column families flushed together.
pub(crate) fn state(cache: &Cache) -> Options {
    let mut options = common(cache);
    options.set_atomic_flush(true);
    options.set_write_buffer_size(STATE_WRITE_BUFFER);
    // One thread writes, and revisions grow: a memtable of one writer knows where it left off.
    options.set_allow_concurrent_memtable_write(false);
    // Whether a stop flushes is decided in `state.rs`. The crate has no setter for it.
    options.get_options_from_string("avoid_flush_during_shutdown=true").expect("an option of RocksDB's")
}
