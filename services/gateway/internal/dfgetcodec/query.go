package dfgetcodec

import (
	"encoding/base64"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// FieldDecoder decodes queries and forms into messages of one type. It is safe for
// concurrent use.
type FieldDecoder struct {
	// fields has the fields that a text can fill, by JSON name and by that in lower
	// case.
	fields map[string]*field
}

// field is a field of a message.
type field struct {
	protoreflect.FieldDescriptor
	// place is the index of the field in the generated struct, or -1 if it is none of a
	// string or a number there. Setting it in the struct takes no allocation; package
	// protoreflect makes three of them for a string.
	place int
}

// NewFieldDecoder returns a decoder for messages of the type of m.
func NewFieldDecoder(m proto.Message) *FieldDecoder {
	d := &FieldDecoder{fields: make(map[string]*field)}
	fields := m.ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		if fd := fields.Get(i); fd.Message() == nil && !fd.IsMap() {
			f := &field{fd, placeOf(m, fd)}
			d.fields[fd.JSONName()], d.fields[strings.ToLower(fd.JSONName())] = f, f
		}
	}
	return d
}

// placeOf returns the place of a field. The generated struct names the field's number
// in the second part of its tag.
func placeOf(m proto.Message, fd protoreflect.FieldDescriptor) int {
	t := reflect.TypeOf(m).Elem()
	for i := range t.NumField() {
		parts := strings.Split(t.Field(i).Tag.Get("protobuf"), ",")
		if len(parts) < 2 || parts[1] != strconv.Itoa(int(fd.Number())) {
			continue
		}
		switch t.Field(i).Type.Kind() {
		case reflect.String, reflect.Int32, reflect.Int64, reflect.Bool:
			return i
		}
	}
	return -1
}

// Query decodes the query of a request into m. dfget does not URL-encode its
// queries, so "+" is a plus, a "%" that starts no escape sequence is a percent sign,
// and ";" is not a separator. Names are matched without regard to case. Query
// ignores unknown names and empty values of fields that are not strings, and uses
// the first value of a name that is repeated, if the field is no list. Text that is
// not UTF-8, and a value that the field cannot have, are errors.
func (d *FieldDecoder) Query(raw string, m proto.Message) error { return d.decode(raw, m, false) }

// Form decodes the body of a form into m. It differs from Query in that "+" is a
// space.
func (d *FieldDecoder) Form(body string, m proto.Message) error { return d.decode(body, m, true) }

func (d *FieldDecoder) decode(raw string, m proto.Message, plusIsSpace bool) error {
	target := reflect.ValueOf(m).Elem()
	var set uint64 // bit n: field n of the message has a value
	for pair := range strings.SplitSeq(raw, "&") {
		name, text, _ := strings.Cut(pair, "=")
		fd := d.field(unescape(name, plusIsSpace))
		if fd == nil {
			continue
		}
		text = unescape(text, plusIsSpace)
		if !utf8.ValidString(text) {
			return fmt.Errorf("%s: not UTF-8", fd.JSONName())
		}
		bit := uint64(1) << (fd.Index() % 64)
		if text == "" && fd.Kind() != protoreflect.StringKind || !fd.IsList() && set&bit != 0 {
			continue
		}
		value, err := parseValue(text, fd.Kind())
		if err != nil {
			return fmt.Errorf("%s: %w", fd.JSONName(), err)
		}
		set |= bit
		switch {
		case fd.IsList():
			m.ProtoReflect().Mutable(fd.FieldDescriptor).List().Append(value)
		case fd.place < 0:
			m.ProtoReflect().Set(fd.FieldDescriptor, value)
		default:
			setPlain(target.Field(fd.place), value)
		}
	}
	return nil
}

// setPlain sets a field of a struct.
func setPlain(target reflect.Value, value protoreflect.Value) {
	switch target.Kind() {
	case reflect.String:
		target.SetString(value.String())
	case reflect.Bool:
		target.SetBool(value.Bool())
	default:
		target.SetInt(value.Int())
	}
}

// field returns the field of a name, or nil.
func (d *FieldDecoder) field(name string) *field {
	if fd := d.fields[name]; fd != nil { // dfget's own spelling
		return fd
	}
	return d.fields[strings.ToLower(strings.TrimSuffix(name, "[]"))]
}

// parseValue returns the value of a field of a kind.
func parseValue(text string, kind protoreflect.Kind) (protoreflect.Value, error) {
	switch kind {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(text), nil
	case protoreflect.BoolKind:
		b, err := strconv.ParseBool(text)
		return protoreflect.ValueOfBool(b), cause(err)
	case protoreflect.Int32Kind:
		n, err := strconv.ParseInt(text, 10, 32)
		return protoreflect.ValueOfInt32(int32(n)), cause(err)
	case protoreflect.Int64Kind:
		n, err := strconv.ParseInt(text, 10, 64)
		return protoreflect.ValueOfInt64(n), cause(err)
	case protoreflect.DoubleKind:
		f, err := strconv.ParseFloat(text, 64)
		return protoreflect.ValueOfFloat64(f), cause(err)
	case protoreflect.BytesKind:
		// Any of the usual alphabets, with padding or without.
		text = strings.NewReplacer("-", "+", "_", "/").Replace(strings.TrimRight(text, "="))
		b, err := base64.RawStdEncoding.DecodeString(text)
		return protoreflect.ValueOfBytes(b), err
	}
	return protoreflect.Value{}, fmt.Errorf("a %s cannot be given as text", kind)
}

// cause returns the error of package strconv without the function's name and the
// text, which may be long.
func cause(err error) error {
	if failure := new(strconv.NumError); errors.As(err, &failure) {
		return failure.Err
	}
	return err
}

// unescape replaces the valid escape sequences of s and leaves the invalid ones as
// they are.
func unescape(s string, plusIsSpace bool) string {
	if !strings.ContainsAny(s, "%+") {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '+' && plusIsSpace:
			b = append(b, ' ')
		case s[i] == '%' && i+2 < len(s) && isHex(s[i+1]) && isHex(s[i+2]):
			b = append(b, hexValue(s[i+1])<<4|hexValue(s[i+2]))
			i += 2
		default:
			b = append(b, s[i])
		}
	}
	return string(b)
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

func hexValue(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c&^0x20 - 'A' + 10
}
