"""Which columns of a table are the image, the label and the split."""

import pytest

from kfp_vision.dataset import import_lines
from kfp_vision.dataset.import_lines import InvalidColumns


@pytest.mark.parametrize(
    ("names", "row", "image", "label", "split"),
    [
        ("id,breed", "000bec,corgi", "id", "breed", None),
        ("Image,Id", "0000e88ab.jpg,w_f48451c", "Image", "Id", None),
        ("class id,filepaths,labels,data set", "0,a.jpg,cat,train", "filepaths", "labels", "data set"),
        ("lesion_id,image_id,dx,dx_type,age", "HAM_1,ISIC_1,bkl,histo,80.0", "image_id", "dx", None),
        ("Filename,Label,ClassName", "a.jpg,3,Forest", "Filename", "ClassName", None),
        ("Width,Height,ClassId,Path", "53,54,16,Test/0.png", "Path", "ClassId", None),
        ("Unnamed: 0,file_name,what", "0,a.jpg,cat", "file_name", "what", None),
        ("index,image-path,Category,sub-set", "0,a.jpg,cat,val", "image-path", "Category", "sub-set"),
        ("path,filename,label", "photos/cat,a.jpg,cat", "filename", "label", None),
        ("uri,label,bytes,content_id,name,split", "a.jpg,cat,1,x,b.jpg,test", "uri", "label", "split"),
        ("uri,label,class,ml_use", "a.jpg,cat,1,test", "uri", "label", "ml_use"),
        ("Tier,Bild", "cat,a.jpg", "Bild", "Tier", None),
        ("mystery,label", "000bec,cat", "mystery", "label", None),
        ("filename,split", "a.jpg,test", "filename", None, "split"),
        ("filename", "a.jpg", "filename", None, None),
    ],
)
def test_the_columns_are_found(names, row, image, label, split):
    names = names.split(",")
    found = import_lines.choose_columns(names, [row.split(",")])
    chosen = [None if position is None else names[position] for position in (found.image, found.label, found.split)]
    assert chosen == [image, label, split]
    assert found.flags == ()


@pytest.mark.parametrize(
    ("names", "row", "found", "remedy"),
    [
        (
            "image,class,species",
            "a.jpg,x,y",
            "the columns class and species",
            "Rename the one to read to label, and delete the others.",
        ),
        (
            "filename,url,label",
            "a.jpg,b.jpg,y",
            "the columns filename and url",
            "Rename the one to read to uri, and delete the others.",
        ),
        ("image,a,b", "a.jpg,1,5", "no label among the columns image, a, b", "Rename the column of the class to label."),
        ("a,b,label", "x,y,cat", "no image among the columns a, b, label", "Rename the column of the image to uri."),
        ("label", "cat", "no image among the columns label", "Rename the column of the image to uri."),
        ("", "", "no image among keys that hold one text or number", "Rename the column of the image to uri."),
    ],
)
def test_columns_that_do_not_tell_are_refused_with_their_names(names, row, found, remedy):
    with pytest.raises(InvalidColumns) as refusal:
        import_lines.choose_columns(names.split(","), [row.split(",")])
    assert (refusal.value.found, refusal.value.remedy) == (found, remedy)


@pytest.mark.parametrize(
    ("names", "row", "note"),
    [
        ("uri,label,ml_use", "a.jpg,cat,test", ""),
        ("id,breed", "000bec,corgi", "Columns of the import file: the image from id, the label from breed."),
        (
            "age,image,class,set",
            "4,a.jpg,cat,test",
            "Columns of the import file: the image from image, the label from class, the split from set; ignored: age.",
        ),
        (
            "image,MEL,NV",
            "ISIC_1,0.0,1.0",
            "Columns of the import file: the image from image, the label from the one that holds 1 of MEL, NV.",
        ),
    ],
)
def test_a_note_says_which_columns_are_read(names, row, note):
    assert import_lines.choose_columns(names.split(","), [row.split(",")]).note == note
