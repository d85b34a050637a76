from ..photo_folder.conftest import photos as photos
