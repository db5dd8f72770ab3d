package piece_test

import (
	"crypto/md5"
	"encoding/hex"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/pkg/piece"
)

const mib = 1 << 20

func TestSizeIncreasesWithTheLength(t *testing.T) {
	const gib = 1 << 30
	for length, want := range map[int64]int32{
		-1: 4 * mib, 0: mib, 1: mib, 100 * mib: mib, 100*mib + 1: 3 * mib, gib: 3 * mib, gib + 1: 4 * mib,
		4 * gib: 4 * mib, 4*gib + 1: 8 * mib, 64 * gib: 8 * mib, 64*gib + 1: 9 * mib, 72 * gib: 9 * mib, 100 * gib: 13 * mib,
		120 * gib: 15 * mib, 1 << 40: 15 * mib, math.MaxInt64: 15 * mib,
	} {
		require.Equal(t, want, piece.SizeFor(length), "length %d", length)
	}
}

func TestSizesAreWholeMiBAndTheNumberOfPiecesIsBounded(t *testing.T) {
	last := int32(0)
	for length := int64(1); length <= 120<<30; length += max(length/3, 1) {
		size := piece.SizeFor(length)
		require.Zero(t, size%mib, "length %d", length)
		require.GreaterOrEqual(t, size, last, "length %d", length)
		require.LessOrEqual(t, piece.Count(length, size), int32(8193), "length %d", length)
		last = size
	}
}

func TestCountRoundsUpAndIsZeroForInvalidValues(t *testing.T) {
	const content = piece.DefaultSize - piece.WrapLength
	for length, want := range map[int64]int32{
		0: 1, 1: 1, content: 1, content + 1: 2, 9_000_000: 3, 209_715_200: 51, -1: 0,
	} {
		require.Equal(t, want, piece.Count(length, piece.DefaultSize), "length %d", length)
	}
	require.Zero(t, piece.Count(10, piece.WrapLength))
	require.Zero(t, piece.Count(math.MaxInt64, 6))
}

func TestRangeEqualsThatOfTheRecordedClient(t *testing.T) {
	require.Equal(t, "8388608-12582911", piece.Range(2, 4*mib))
	num, size, err := piece.ParseRange("8388608-12582911")
	require.NoError(t, err)
	require.EqualValues(t, 2, num)
	require.EqualValues(t, 4*mib, size)
}

func TestParseRangeReturnsAnErrorForInvalidRanges(t *testing.T) {
	for _, s := range []string{
		"", "-", "0-", "-5", "9-1", "0-0", "0-4", "1-4194304", "00-4194303", "+0-4194303", " 0-4194303", "0-4194303-",
		"0-4194303,0-4194303", "0-99999999999999999999", "4194304-4194303", "a-b", "-1-5", "0--1",
		"0-16777215", "9223372036854775807-9223372036854775807",
	} {
		_, _, err := piece.ParseRange(s)
		require.ErrorIs(t, err, piece.ErrRange, "range %q", s)
	}
}

func FuzzParseRange(f *testing.F) {
	f.Add("0-4194303")
	f.Add("9-1")
	f.Add("0-")
	f.Fuzz(func(t *testing.T, s string) {
		num, size, err := piece.ParseRange(s)
		if err != nil {
			require.ErrorIs(t, err, piece.ErrRange)
			return
		}
		require.GreaterOrEqual(t, num, int32(0))
		require.Equal(t, s, piece.Range(num, size))
	})
}

// The digest of the only piece of an empty file is in the recorded exchange.
func TestDigestOfAnEmptyPieceEqualsTheRecordedOne(t *testing.T) {
	wrapped := make([]byte, piece.WrapLength)
	piece.PutHead(wrapped, 0, piece.DefaultSize)
	wrapped[piece.HeadLength] = piece.Tail
	sum := md5.Sum(wrapped)
	require.Equal(t, "d6991051769098273e82477afd2bb93e:5", piece.Digest(hex.EncodeToString(sum[:]), 5))
	content, err := piece.Unwrap(wrapped, piece.DefaultSize)
	require.NoError(t, err)
	require.Empty(t, content)
}

func TestUnwrapReturnsAnErrorForInvalidPieces(t *testing.T) {
	good := append([]byte{0, 0, 0, 0}, "hello\x7f"...)
	piece.PutHead(good, 5, piece.DefaultSize)
	content, err := piece.Unwrap(good, piece.DefaultSize)
	require.NoError(t, err)
	require.Equal(t, "hello", string(content))
	for i := range good {
		if i >= piece.HeadLength && i < len(good)-1 {
			continue
		}
		bad := append([]byte{}, good...)
		bad[i] ^= 1
		_, err := piece.Unwrap(bad, piece.DefaultSize)
		require.ErrorIs(t, err, piece.ErrFormat, "byte %d", i)
	}
	_, err = piece.Unwrap(good[:4], piece.DefaultSize)
	require.ErrorIs(t, err, piece.ErrFormat)
	_, err = piece.Unwrap(good, 9)
	require.ErrorIs(t, err, piece.ErrFormat)
}

func TestParseDigestIsTheInverseOfDigest(t *testing.T) {
	const sum = "5ee6e6b7111484eb8497dc660be97783"
	md5, length, err := piece.ParseDigest(piece.Digest(sum, 4194304))
	require.NoError(t, err)
	require.Equal(t, sum, md5)
	require.EqualValues(t, 4194304, length)
	for _, s := range []string{"", sum, sum + ":", sum + ":4", sum + ":x", "x:5", sum[1:] + ":9", "X" + sum[1:] + ":9"} {
		_, _, err := piece.ParseDigest(s)
		require.ErrorIs(t, err, piece.ErrFormat, "%q", s)
	}
}
