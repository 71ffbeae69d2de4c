//! Published vectors and tables in `vectors`, properties against naive oracles in `properties`.

mod properties;
mod vectors;
