package dfgetcodec

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Encode returns the JSON of a message for dfget, with a newline at the end. It
// fails for maps and for numbers that JSON cannot express, such as NaN.
func Encode(m proto.Message) ([]byte, error) {
	b, err := appendMessage(make([]byte, 0, 512), m.ProtoReflect())
	if err != nil {
		return nil, fmt.Errorf("encoding %s: %w", m.ProtoReflect().Descriptor().FullName(), err)
	}
	return append(b, '\n'), nil
}

func appendMessage(b []byte, m protoreflect.Message) ([]byte, error) {
	fields := m.Descriptor().Fields()
	if items := bareArrayField(m.Descriptor()); items != nil {
		return appendField(b, items, m.Get(items))
	}
	b = append(b, '{')
	first := true
	for i := range fields.Len() {
		fd := fields.Get(i)
		if fd.HasPresence() && !m.Has(fd) {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = append(appendString(b, outputName(fd)), ':')
		var err error
		if b, err = appendField(b, fd, m.Get(fd)); err != nil {
			return nil, fmt.Errorf("%s: %w", fd.Name(), err)
		}
	}
	return append(b, '}'), nil
}

// bareArrayField returns the field of a message that is written as a plain array,
// or nil if the message is written as an object.
func bareArrayField(md protoreflect.MessageDescriptor) protoreflect.FieldDescriptor {
	if md.Fields().Len() != 1 {
		return nil
	}
	if fd := md.Fields().Get(0); fd.Name() == "items" && fd.IsList() {
		return fd
	}
	return nil
}

// outputName returns the field's JSON name, or the name of the oneof that contains
// the field.
func outputName(fd protoreflect.FieldDescriptor) string {
	if oneof := fd.ContainingOneof(); oneof != nil && !oneof.IsSynthetic() {
		return string(oneof.Name())
	}
	return fd.JSONName()
}

func appendField(b []byte, fd protoreflect.FieldDescriptor, v protoreflect.Value) ([]byte, error) {
	if fd.IsMap() {
		return nil, fmt.Errorf("maps are not supported")
	}
	if !fd.IsList() {
		return appendValue(b, fd, v)
	}
	b = append(b, '[')
	list := v.List()
	for i := range list.Len() {
		if i > 0 {
			b = append(b, ',')
		}
		var err error
		if b, err = appendValue(b, fd, list.Get(i)); err != nil {
			return nil, err
		}
	}
	return append(b, ']'), nil
}

func appendValue(b []byte, fd protoreflect.FieldDescriptor, v protoreflect.Value) ([]byte, error) {
	switch fd.Kind() {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		return appendMessage(b, v.Message())
	case protoreflect.StringKind:
		return appendString(b, v.String()), nil
	case protoreflect.BytesKind:
		return appendString(b, base64.StdEncoding.EncodeToString(v.Bytes())), nil
	case protoreflect.BoolKind:
		return strconv.AppendBool(b, v.Bool()), nil
	case protoreflect.EnumKind:
		return strconv.AppendInt(b, int64(v.Enum()), 10), nil
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		text, err := json.Marshal(v.Float())
		return append(b, text...), err
	case protoreflect.Uint32Kind, protoreflect.Uint64Kind, protoreflect.Fixed32Kind, protoreflect.Fixed64Kind:
		return strconv.AppendUint(b, v.Uint(), 10), nil
	default:
		return strconv.AppendInt(b, v.Int(), 10), nil
	}
}

// appendString appends s in quotes. It is optimized for strings without characters
// to escape, because nearly all strings are, and pulls are frequent.
func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c >= 0x7f || c == '"' || c == '\\' {
			text, err := json.Marshal(s)
			if err != nil { // cannot happen: a string can always be encoded
				text = []byte(`""`)
			}
			return append(b, text...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}
