package config

import (
	"fmt"
	"strconv"

	"github.com/docker/go-units"
)

// Bytes is a number of bytes, or of bytes a second, as a flag: a plain number
// or one with K, M, G or T behind it, with or without a B, in powers of 1024.
type Bytes int64

// Set reads it.
func (b *Bytes) Set(s string) error {
	n, err := units.RAMInBytes(s)
	if err != nil || n < 0 {
		return fmt.Errorf("%q is not a number of bytes such as 200MB", s)
	}
	*b = Bytes(n)
	return nil
}

// String writes it so that Set reads the same.
func (b *Bytes) String() string {
	n := int64(*b)
	for _, unit := range []struct {
		name string
		size int64
	}{{"GB", 1 << 30}, {"MB", 1 << 20}, {"KB", 1 << 10}} {
		if n != 0 && n%unit.size == 0 {
			return strconv.FormatInt(n/unit.size, 10) + unit.name
		}
	}
	return strconv.FormatInt(n, 10)
}

// Type names it in help texts.
func (b *Bytes) Type() string { return "bytes" }
