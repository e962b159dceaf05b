//! The codec of all messages: protobuf, with small initial buffers.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{self, BufferSettings};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// The prefix of each message: one byte for the compression flag, four for the length.
#[cfg(feature = "server")]
pub(crate) const MESSAGE_PREFIX_LEN: usize = 5;

/// The initial size of a call's buffer in each direction. Most messages fit, and allocators keep blocks of
/// this size in thread caches, unlike tonic's default of 8 KiB.
const BUFFER_BYTES: usize = 1000;

/// The number of encoded bytes that are sent at once while more messages are ready: tonic's default.
const YIELD_THRESHOLD: usize = 32 * 1024;

/// Encodes `T` and decodes `U`.
#[derive(Debug)]
pub(crate) struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> codec::Codec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(BUFFER_BYTES, YIELD_THRESHOLD))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(BUFFER_BYTES, YIELD_THRESHOLD))
    }
}
