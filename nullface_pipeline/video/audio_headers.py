"""Decoder configuration of copied audio (FFmpeg's extradata), rebuilt from its numeric fields.

Other content of a header is dropped: comments, cover pictures and appended bytes.
"""

import struct


# AAC object types with the header of ISO 14496-3, 4.4.1: Main, LC, SSR, LTP. SBR and PS extend one.
_AAC_OBJECTS = (1, 2, 3, 4)
_SBR, _PS = 5, 29

# Codecs that need no extradata.
_NO_HEADER = ("mp3", "ac3", "eac3", "pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_f32le")


def rebuilt_header(codec: str, header: bytes | None) -> bytes | None:
    """Rebuild the extradata of an audio stream; `None` if the codec needs none.

    Args:
        codec (`str`): FFmpeg's name of the codec, such as "aac".

    Raises:
        ValueError: if the header is damaged or of an unsupported kind, such as Vorbis.
    """
    if codec in _NO_HEADER or (codec == "aac" and not header):
        return None
    rebuild = {"aac": _aac, "opus": _opus, "flac": _flac, "alac": _alac}.get(codec)
    if rebuild is None or header is None:
        raise ValueError(f"Headers of {codec} are not supported.")
    try:
        return rebuild(header)
    except (IndexError, struct.error) as error:
        raise ValueError(f"The header of {codec} is too short.") from error


def _opus(header: bytes) -> bytes:
    """OpusHead of RFC 7845, 5.1."""
    magic, version, channels, skipped, rate, gain, family = struct.unpack_from("<8sBBHIhB", header)
    if magic != b"OpusHead" or version > 15:
        raise ValueError("This is not an Opus header.")
    rebuilt = struct.pack("<8sBBHIhB", magic, version, channels, skipped, rate, gain, family)
    if family == 0:
        return rebuilt
    mapping = struct.unpack_from(f"{2 + channels}B", header, len(rebuilt))
    return rebuilt + bytes(mapping)


def _flac(header: bytes) -> bytes:
    """STREAMINFO of RFC 9639, 8.2, without the MD5 of the audio."""
    return struct.pack("18s16x", struct.unpack_from("18s", header)[0])


def _alac(header: bytes) -> bytes:
    """ALACSpecificConfig, wrapped in the atom that FFmpeg expects."""
    return struct.pack(">I4sI24s", 36, b"alac", 0, struct.unpack_from("24s", header, 12)[0])


class _Bits:
    """Reader of the bit fields of a header."""

    def __init__(self, data: bytes) -> None:
        self.bits = "".join(f"{byte:08b}" for byte in data[:32])
        self.position = 0

    def read(self, width: int) -> int:
        self.position += width
        if self.position > len(self.bits):
            raise IndexError
        return int(self.bits[self.position - width : self.position], 2)

    def consumed(self) -> bytes:
        """Fields read so far, padded with zeros to a whole byte."""
        length = -(-self.position // 8)
        return int(self.bits[: self.position].ljust(8 * length, "0"), 2).to_bytes(length, "big")


def _aac(header: bytes) -> bytes:
    """AudioSpecificConfig of ISO 14496-3, 1.6.2.1, with the extension for SBR and PS."""
    bits = _Bits(header)
    first = kind = _aac_object(bits)
    _aac_rate(bits)
    channels = bits.read(4)
    if kind in (_SBR, _PS):
        _aac_rate(bits)
        kind = _aac_object(bits)
    # With 0 channels a program config element follows, which may hold a comment.
    if kind not in _AAC_OBJECTS or channels == 0:
        raise ValueError("This kind of AAC is not supported.")
    bits.read(1)
    if bits.read(1):
        bits.read(14)
    if bits.read(1):
        raise ValueError("This kind of AAC is not supported.")
    end = bits.position
    if first in _AAC_OBJECTS:
        try:
            _aac_extension(bits)
        except IndexError:
            bits.position = end
    return bits.consumed()


def _aac_object(bits: _Bits) -> int:
    kind = bits.read(5)
    return 32 + bits.read(6) if kind == 31 else kind


def _aac_rate(bits: _Bits) -> None:
    if bits.read(4) == 15:
        bits.read(24)


def _aac_extension(bits: _Bits) -> None:
    """Read the SBR and PS extension if there is one."""
    end = bits.position
    if bits.read(11) != 0x2B7 or _aac_object(bits) != _SBR:
        bits.position = end
        return
    if bits.read(1):
        _aac_rate(bits)
        end = bits.position
        try:
            if bits.read(11) == 0x548:
                bits.read(1)
                end = bits.position
        except IndexError:
            pass
        bits.position = end
